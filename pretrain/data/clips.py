"""Corpora whose clips have numbers: a packed corpus, or the files of a folder or manifest."""

import logging
import os
import tempfile
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from maeast_upstream.audio.reading import AudioError, Source, duration_ms, find_audio, read_audio
from maeast_upstream.data.manifest import read_fairseq
from maeast_upstream.data.packed import Packed, open_packed, packed_clips, to_float
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import progress_bar
from pretrain.data.packed_record import ERRORS_NAME, left_out, verify

logger = logging.getLogger(__name__)

SAMPLES_PER_MS = SAMPLE_RATE / 1000


class Clips(Protocol):
    """A corpus whose clips have numbers."""

    lengths: np.ndarray
    """(clips,) int64 samples at 16 kHz; for files an estimate from the manifest or the header."""
    kinds: np.ndarray
    """(clips,) kind of audio (speech, music, ...), "" if unknown."""
    failures: dict[str, str]
    """Name and reason of each file that could not be listed or packed."""

    def name(self, clip: int) -> str:
        """A clip's name, for messages."""

    def read(self, clip: int, count: int, position: float) -> np.ndarray:
        """Read a crop.

        Args:
            clip: number of the clip.
            count: samples of the crop.
            position: in [0, 1); 0 gives the first possible crop, just below 1 the last one.

        Returns:
            (count,) float32; fewer only if the whole clip has fewer.

        Raises:
            AudioError: the clip cannot be decoded.
        """


class NoClips:
    """The corpus of a run whose sounds are all computed."""

    def __init__(self) -> None:
        self.lengths, self.kinds = np.zeros(0, np.int64), np.zeros(0, np.str_)
        self.failures: dict[str, str] = {}

    def name(self, clip: int) -> str:
        """See `Clips`."""
        return "a computed sound"

    def read(self, clip: int, count: int, position: float) -> np.ndarray:
        """There is nothing to read."""
        raise AudioError("computed sounds are not read")


class PackedClips:
    """A corpus that `pretrain.pack` wrote; a crop is a copy of mapped memory."""

    def __init__(self, corpus: Packed, folder: Path | None = None, digest: str = "") -> None:
        self.lengths, self.kinds = corpus.lengths, corpus.kinds
        self.failures = dict(left_out(folder)) if folder else {}
        self.corpus, self._folder, self.digest = corpus, folder, digest

    def __reduce__(self) -> Any:  # not the audio, which a worker maps itself
        return super().__reduce__() if self._folder is None else (open_packed_clips, (self._folder,))

    def name(self, clip: int) -> str:
        """Look the name up in clips.tsv, because millions of names would fill the memory."""
        names = packed_clips(self._folder) if self._folder else ()
        return next(
            (name for number, (name, *_) in enumerate(names) if number == clip),
            f"clip {clip}",
        )

    def names(self) -> list[str]:
        """The names of all clips, which take much memory where there are millions."""
        return [name for name, *_ in packed_clips(self._folder)] if self._folder else []

    def read(self, clip: int, count: int, position: float) -> np.ndarray:
        """See `Clips`."""
        first, length = int(self.corpus.offsets[clip]), int(self.corpus.lengths[clip])
        start = first + first_sample(length, count, position)
        return to_float(self.corpus.audio[start : min(start + count, first + length)])


class FileClips:
    """Audio files, of any container, rate and channel count."""

    def __init__(self, root: Path, names: list[str], lengths: np.ndarray, kinds: np.ndarray) -> None:
        self.lengths, self.kinds = lengths, kinds
        self.failures: dict[str, str] = {}
        self._root = root
        # one array of bytes: a Python string for each of millions of names would be copied into every worker
        encoded = [os.fsencode(name) for name in names]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._stored: IO[bytes] | None = None

    def __reduce__(self) -> Any:  # the path of a temporary file, which each worker reads
        if self._stored is None:
            self._stored = tempfile.NamedTemporaryFile(prefix="maeast-clips-", suffix=".npz")  # noqa: SIM115
            np.savez(self._stored, lengths=self.lengths, kinds=self.kinds, names=self._names, ends=self._ends)
            self._stored.flush()
        return _stored_clips, (self._root, self._stored.name)

    def name(self, clip: int) -> str:
        """The path of the file."""
        first = int(self._ends[clip - 1]) if clip else 0
        return str(self._root / os.fsdecode(self._names[first : self._ends[clip]].tobytes()))

    def read(self, clip: int, count: int, position: float) -> np.ndarray:
        """See `Clips`."""
        return read_crop(self.name(clip), count, position)


def _stored_clips(root: Path, path: str) -> FileClips:
    """Read what `FileClips` stored for another process."""
    with np.load(path) as stored:
        clips = FileClips(root, [], stored["lengths"], stored["kinds"])
        clips._names, clips._ends = stored["names"], stored["ends"]
    return clips


def first_sample(length: int, count: int, position: float) -> int:
    """The first sample of a crop with ``count`` of ``length`` samples, for a position in [0, 1)."""
    return int(position * max(1, length - count + 1))


def read_crop(source: Source, count: int, position: float) -> np.ndarray:
    """Read a crop of a file or stream as `Clips.read` does.

    Only the crop is decoded if the container can seek; otherwise everything before it is decoded and dropped.
    """
    length = int(duration_ms(source) * SAMPLES_PER_MS)
    first = first_sample(length, count, position)
    if length > count:
        try:
            _rewind(source)
            crop = read_audio(source, first / SAMPLES_PER_MS, (first + count) / SAMPLES_PER_MS)
            if len(crop) == count:
                return crop
        except AudioError:  # the header may promise too much: decode the whole file
            pass
    _rewind(source)
    whole = read_audio(source)
    first = first_sample(len(whole), count, position)
    return whole[first : first + count]


def _rewind(source: Source) -> None:
    if not isinstance(source, (str, Path)):
        source.seek(0)


def open_manifest(path: Path) -> FileClips:
    """Open a manifest as fairseq writes it: the root on the first line, then lines of path, tab, samples.

    A third column, if there is one, is the kind of audio. Samples count at 16 kHz; a file with another rate is cropped
    by the length in its header.

    Raises:
        ValueError: the root does not exist, a line has another form, or there is no clip.
    """
    root, rows = read_fairseq(str(path))
    names, lengths, kinds = [], [], []
    for row in rows:
        names.append(row.path)
        lengths.append(row.samples)
        kinds.append(row.kind)
    if not names:
        raise ValueError(f"{path}: no clip below its first line; expected path, tab, samples on each")
    return FileClips(Path(root), names, np.array(lengths, np.int64), np.array(kinds))


def open_folder(folder: Path) -> FileClips:
    """Open all audio files below a folder; their lengths come from their headers.

    Raises:
        ValueError: none of the files is audio.
    """
    names, lengths, failures = [], [], {}
    for path in progress_bar(find_audio([folder]), unit="file", desc="reading headers"):
        try:
            samples = int(duration_ms(path) * SAMPLES_PER_MS)
        except AudioError as error:
            failures[str(path)] = str(error).removeprefix(f"{path}: ")
            continue
        names.append(str(path.relative_to(folder)))
        lengths.append(max(samples, 1))
    if not names:
        name, reason = next(iter(failures.items()))
        raise ValueError(f"no file of {folder} is audio; the first: {name}: {reason}")
    clips = FileClips(folder, names, np.array(lengths, np.int64), np.full(len(names), ""))
    clips.failures = failures
    return clips


class ChosenClips:
    """The clips of another corpus with at least ``min_samples`` samples."""

    def __init__(self, clips: Clips, min_samples: int) -> None:
        self.clips, self.min_samples = clips, min_samples
        self.chosen = np.flatnonzero(clips.lengths >= min_samples)
        self.lengths, self.kinds, self.failures = clips.lengths[self.chosen], clips.kinds[self.chosen], clips.failures

    def __reduce__(self) -> Any:
        return ChosenClips, (self.clips, self.min_samples)

    def name(self, clip: int) -> str:
        """The name in the other corpus."""
        return self.clips.name(int(self.chosen[clip]))

    def read(self, clip: int, count: int, position: float) -> np.ndarray:
        """See `Clips`."""
        return self.clips.read(int(self.chosen[clip]), count, position)


def packed_corpus(clips: Clips) -> Packed | None:
    """The decoded audio that the clips are read from; None if they are files."""
    if isinstance(clips, PackedClips):
        return clips.corpus
    if not isinstance(clips, ChosenClips):
        return None
    corpus = packed_corpus(clips.clips)
    if corpus is None:
        return None
    return Packed(corpus.audio, corpus.offsets[clips.chosen], clips.lengths, clips.kinds)


def packed_names(clips: Clips) -> list[str] | None:
    """The names of all clips in their order; None if they are not packed."""
    if isinstance(clips, ChosenClips):
        names = packed_names(clips.clips)
        return None if names is None else [names[number] for number in clips.chosen]
    return clips.names() if isinstance(clips, PackedClips) else None


def drop_short(clips: Clips, min_samples: int) -> Clips:
    """The clips with at least ``min_samples`` samples; ValueError if there are none."""
    long_enough = clips.lengths >= min_samples
    if long_enough.all():
        return clips
    if not long_enough.any():
        raise ValueError(
            f"all {len(long_enough)} clips are shorter than {min_samples / SAMPLE_RATE:.3f} s (data.min_seconds, or "
            "with data.short_clips pad or data.batch_by samples two tokens of the model); the longest has "
            f"{clips.lengths.max() / SAMPLE_RATE:.3f} s"
        )
    logger.warning(
        "%d of %d clips are shorter than %.3f s and left out, %.2f of %.2f h",
        (~long_enough).sum(),
        len(long_enough),
        min_samples / SAMPLE_RATE,
        clips.lengths[~long_enough].sum() / SAMPLE_RATE / 3600,
        clips.lengths.sum() / SAMPLE_RATE / 3600,
    )
    return ChosenClips(clips, min_samples)


def open_packed_clips(folder: Path, check: bool = False) -> PackedClips:
    """Open a folder that `pretrain.pack` wrote.

    Args:
        folder: The folder.
        check: Whether to compare its audio with its checksums and its corpus with what it was, and to log what was
            left out: the first process of a run does so once.

    Raises:
        ValueError: The folder is not whole, or its audio is not what was packed.
    """
    corpus = open_packed(folder)
    if not check:
        return PackedClips(corpus, folder)
    clips = PackedClips(corpus, folder, verify(folder, corpus.lengths))
    if clips.failures:
        logger.warning("%d files were left out of %s: see %s in it", len(clips.failures), folder, ERRORS_NAME)
    return clips

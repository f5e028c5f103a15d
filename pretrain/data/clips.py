"""Clips that a batch draws by their number: of a packed corpus, or files of a folder or manifest."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from maeast_upstream.audio.reading import AudioError, Source, duration_ms, find_audio, read_audio
from maeast_upstream.data.packed import Packed, open_packed, packed_clips, to_float
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import progress_bar

logger = logging.getLogger(__name__)

SAMPLES_PER_MS = SAMPLE_RATE / 1000


class Clips(Protocol):
    """A corpus whose clips have numbers."""

    lengths: np.ndarray
    """(clips,) int64 samples at 16 kHz; of files about, as manifest or header say."""
    kinds: np.ndarray
    """(clips,) what each is (speech, music, ...), "" where nothing is said."""
    bad: dict[str, str]
    """What could not be listed, by name, with the reason."""

    def name(self, clip: int) -> str:
        """A clip's name, for messages."""

    def read(self, clip: int, count: int, place: float) -> np.ndarray:
        """A random crop.

        Args:
            clip: its number.
            count: samples asked for.
            place: in [0, 1), where the crop lies between the first and the last possible one.

        Returns:
            (count,) float32, fewer only if the whole clip has fewer.

        Raises:
            AudioError: it cannot be decoded.
        """


class PackedClips:
    """A corpus that `pretrain.pack` wrote: a crop is a copy of mapped memory."""

    def __init__(self, corpus: Packed, folder: Path | None = None) -> None:
        self.lengths, self.kinds = corpus.lengths, corpus.kinds
        self.bad: dict[str, str] = {}
        self.corpus, self._folder = corpus, folder

    def name(self, clip: int) -> str:
        """As clips.tsv says; read from there only when somebody asks, because millions of names fill memory."""
        names = packed_clips(self._folder) if self._folder else ()
        return next(
            (name for number, (name, *_) in enumerate(names) if number == clip),
            f"clip {clip}",
        )

    def read(self, clip: int, count: int, place: float) -> np.ndarray:
        """See `Clips`."""
        first, length = int(self.corpus.offsets[clip]), int(self.corpus.lengths[clip])
        start = first + first_sample(length, count, place)
        return to_float(self.corpus.audio[start : min(start + count, first + length)])


class FileClips:
    """Audio files, of any container, rate and channel count."""

    def __init__(self, root: Path, names: list[str], lengths: np.ndarray, kinds: np.ndarray) -> None:
        self.lengths, self.kinds = lengths, kinds
        self.bad: dict[str, str] = {}
        self._root = root
        # one array of bytes: a Python string for each of millions of names would be copied into every worker
        encoded = [os.fsencode(name) for name in names]
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def name(self, clip: int) -> str:
        """Its path."""
        first = int(self._ends[clip - 1]) if clip else 0
        return str(self._root / os.fsdecode(self._names[first : self._ends[clip]].tobytes()))

    def read(self, clip: int, count: int, place: float) -> np.ndarray:
        """See `Clips`."""
        return read_crop(self.name(clip), count, place)


def first_sample(length: int, count: int, place: float) -> int:
    """Where a crop of ``count`` of ``length`` samples begins."""
    return int(place * max(1, length - count + 1))


def read_crop(source: Source, count: int, place: float) -> np.ndarray:
    """`Clips.read` of a file or stream: only the crop is decoded where the container can seek.

    Where it cannot, what lies before the crop is decoded and dropped.
    """
    length = int(duration_ms(source) * SAMPLES_PER_MS)
    first = first_sample(length, count, place)
    if length > count:
        try:
            _rewind(source)
            crop = read_audio(source, first / SAMPLES_PER_MS, (first + count) / SAMPLES_PER_MS)
            if len(crop) == count:
                return crop
        except AudioError:  # the header promised too much, perhaps: the whole file tells
            pass
    _rewind(source)
    whole = read_audio(source)
    first = first_sample(len(whole), count, place)
    return whole[first : first + count]


def _rewind(source: Source) -> None:
    if not isinstance(source, (str, Path)):
        source.seek(0)


def open_manifest(path: Path) -> FileClips:
    """A manifest as fairseq writes it: the root on the first line, then path, tab, samples on each.

    A third column, if there is one, is the kind of audio. Samples are taken as at 16 kHz; a file of another rate is
    cropped by what its header says.

    Raises:
        ValueError: no such root, a line of another form, no clip.
    """
    root, rows = read_manifest(path)
    names, lengths, kinds = [], [], []
    for name, samples, kind in rows:
        names.append(name)
        lengths.append(samples)
        kinds.append(kind)
    if not names:
        raise ValueError(f"{path}: no clip below its first line; expected path, tab, samples on each")
    return FileClips(root, names, np.array(lengths, np.int64), np.array(kinds))


def read_manifest(path: Path) -> tuple[Path, Iterator[tuple[str, int, str]]]:
    """The root, and (path below it, samples, kind) of each line; ValueError as `open_manifest`."""
    try:
        file = path.open(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ValueError(f"manifest {path}: {error.strerror}") from error
    with file:
        told = file.readline().rstrip("\r\n")
    root = path.parent / told if told else None
    if root is None or not root.is_dir():
        raise ValueError(f"{path}: the root on its first line, {told!r}, is no folder here; put the audio's root there")

    def rows() -> Iterator[tuple[str, int, str]]:
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            next(lines)
            for number, line in enumerate(lines, start=2):
                if not line.strip():
                    continue
                name, *rest = line.rstrip("\r\n").split("\t")
                if not 1 <= len(rest) <= 2 or not rest[0].strip().isdecimal() or int(rest[0]) < 1:
                    raise ValueError(f"{path}:{number}: expected path, tab, samples; got {line.strip()[:80]!r}")
                yield name, int(rest[0]), rest[1] if len(rest) == 2 else ""

    return root, rows()


def open_folder(folder: Path) -> FileClips:
    """All audio files of a folder, at any depth, their lengths from their headers.

    Raises:
        ValueError: none of them is audio.
    """
    names, lengths, bad = [], [], {}
    for path in progress_bar(find_audio([folder]), unit="file", desc="reading headers"):
        try:
            samples = int(duration_ms(path) * SAMPLES_PER_MS)
        except AudioError as error:
            bad[str(path)] = str(error).removeprefix(f"{path}: ")
            continue
        names.append(str(path.relative_to(folder)))
        lengths.append(max(samples, 1))
    if not names:
        name, reason = next(iter(bad.items()))
        raise ValueError(f"no file of {folder} is audio; the first: {name}: {reason}")
    clips = FileClips(folder, names, np.array(lengths, np.int64), np.full(len(names), ""))
    clips.bad = bad
    return clips


class ChosenClips:
    """The clips of another corpus that are long enough."""

    def __init__(self, clips: Clips, chosen: np.ndarray) -> None:
        self.lengths, self.kinds, self.bad = (
            clips.lengths[chosen],
            clips.kinds[chosen],
            clips.bad,
        )
        self.clips, self.chosen = clips, chosen

    def name(self, clip: int) -> str:
        """As the corpus says."""
        return self.clips.name(int(self.chosen[clip]))

    def read(self, clip: int, count: int, place: float) -> np.ndarray:
        """See `Clips`."""
        return self.clips.read(int(self.chosen[clip]), count, place)


def packed_corpus(clips: Clips) -> Packed | None:
    """Where the clips lie in decoded audio, if that is what they are read from."""
    if isinstance(clips, PackedClips):
        return clips.corpus
    if not isinstance(clips, ChosenClips):
        return None
    corpus = packed_corpus(clips.clips)
    if corpus is None:
        return None
    return Packed(corpus.audio, corpus.offsets[clips.chosen], clips.lengths, clips.kinds)


def drop_short(clips: Clips, min_samples: int) -> Clips:
    """Those of at least ``min_samples``; ValueError if none is."""
    enough = clips.lengths >= min_samples
    if enough.all():
        return clips
    if not enough.any():
        raise ValueError(
            f"all {len(enough)} clips are shorter than {min_samples / SAMPLE_RATE:.3f} s (data.min_seconds, or with "
            f"data.short pad one patch of the model); the longest has {clips.lengths.max() / SAMPLE_RATE:.3f} s"
        )
    logger.warning(
        "%d clips shorter than %.3f s are left out",
        (~enough).sum(),
        min_samples / SAMPLE_RATE,
    )
    return ChosenClips(clips, np.flatnonzero(enough))


def open_packed_clips(folder: Path) -> PackedClips:
    """A folder that `pretrain.pack` wrote."""
    return PackedClips(open_packed(folder), folder)

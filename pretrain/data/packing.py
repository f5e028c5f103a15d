"""Decodes a corpus once into flat files that are fast to cut crops from; see `maeast_upstream.data.packed`."""

import contextlib
import functools
import io
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from maeast_upstream.audio.constants import MAX_HOURS, SAMPLE_RATE
from maeast_upstream.audio.files import AUDIO_SUFFIXES
from maeast_upstream.audio.reading import AudioError, decode_audio
from maeast_upstream.data.packed import (
    AUDIO_NAME,
    RECORD_NAME,
    SAMPLE_BYTES,
    TABLE_NAME,
    Packed,
    is_packed,
    open_packed,
    to_int16,
)
from maeast_upstream.data.tars import Member, list_members, read_member
from maeast_upstream.decoding.bounded import BoundedJoin
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.delimited import lines
from maeast_upstream.storage.lock import ProcessLock
from pretrain.data.listing import Listing, list_corpus
from pretrain.data.mapping import mapping
from pretrain.data.packed_record import BLOCK_BYTES, ERRORS_NAME, WARNINGS_NAME, Record, refuse_other_corpus

logger = logging.getLogger(__name__)

FILES_PER_TASK = 32
"""Files that a process decodes at once."""
TASK_SAMPLES = 3600 * SAMPLE_RATE
"""A process keeps so many samples of what it decodes at once in memory, an hour; more go to a file of the disk."""
MAX_DESCRIPTION_BYTES = 1 << 20
"""Limit of a clip's JSON; a longer one gives no kind."""
LOCK_NAME = ".lock"
DECODED_SUFFIX = ".decoded.part"
"""Ends the names of the files that hold what one task decoded."""
POLL_SECONDS = 0.5
"""Time between two looks at the lock of another process that is packing."""


class Stored(NamedTuple):
    """The place of int16 samples that are too many to be kept in memory."""

    path: str
    offset: int
    """Bytes before them."""
    samples: int


class Clip(NamedTuple):
    """A decoded file or member of a tar."""

    name: str
    kind: str
    samples: "np.ndarray | Stored | str"
    """int16 samples, where they are stored, or the reason why there are none, which begins with the name."""
    notes: tuple[str, ...] = ()
    """What was noticed while it was decoded."""


Task = list[tuple[Path, str]]
"""Files with their kinds, or tars with the names that stand before those of their members; one process decodes them."""


def pack(
    corpus: Path, out: Path, workers: int = 1, failures: list[str] | None = None, listing: Listing | None = None
) -> Packed:
    """Decode ``corpus`` into the folder ``out``, or open ``out`` if that was done before.

    While another process packs into ``out``, this one waits. ``out`` gets its table last, and counts as packed only
    with it. Besides audio.i16 and clips.tsv there are packed.json (`Record`), errors.tsv with what was left out, and
    warnings.tsv with what was noticed about clips.

    Args:
        corpus: a folder of WebDataset shards (``*.tar`` with ``KEY.opus|flac|wav|...`` and optionally ``KEY.json``
            with a field ``kind``), a folder of audio files, one shard, or a manifest (`read_fairseq`).
        out: folder for the result.
        workers: processes that decode; with 0 this process decodes.
        failures: a line for each file that is left out is added to this list.
        listing: the files of ``corpus``, if they were listed already.

    Returns:
        The clips in the order of their names, or of the manifest. Files that cannot be decoded are left out and named
        in a warning.

    Raises:
        ValueError: ``corpus`` has no readable audio; ``out`` is not whole, or was decoded from another corpus or
            before the corpus changed.
        OSError: for example, the disk is full; no file stays half-written.
    """
    if not is_packed(str(out)):
        listing = listing or list_corpus(corpus)
        if corpus.is_dir() and out.resolve() == corpus.resolve():
            raise ValueError(f"{out}: the folder of the corpus itself; give another folder for the packed copy")
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out}: a file; give a folder for the packed copy")
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            if not is_packed(str(out)):  # the process that was waited for may have packed it
                _pack(listing, out, workers, [] if failures is None else failures)
                return open_packed(out)
    refuse_other_corpus(corpus, out, listing)
    return open_packed(out)


def _pack(listing: Listing, out: Path, workers: int, failures: list[str]) -> None:
    size = sum(path.stat().st_size for path in listing.shards) if listing.shards else 0
    what = f"{len(listing)} files" + (f", {size / 1e9:.2f} GB" if size else "")
    logger.info("decoding %s (%s) into %s; an hour of audio needs 0.115 GB there", listing.corpus, what, out)
    names = (AUDIO_NAME, RECORD_NAME, ERRORS_NAME, WARNINGS_NAME, TABLE_NAME)  # the table last
    parts = {name: out / f"{name}.part" for name in names}
    digest = listing.digest  # before decoding: what changes meanwhile is a change
    _remove_decoded(out)  # of a process that was killed
    try:
        written = _decode(_tasks(listing), parts[AUDIO_NAME], workers, failures)
        if not written.rows:
            raise ValueError(
                f"no file of {listing.corpus} could be decoded; the first: {failures[0] if failures else 'no audio'}"
            )
        _write_table(parts[TABLE_NAME], [("clip", "kind", "samples"), *written.rows])
        _write_table(parts[ERRORS_NAME], [("clip", "error"), *written.errors])
        _write_table(parts[WARNINGS_NAME], [("clip", "warning"), *written.warnings])
        relative = os.path.relpath(listing.corpus.resolve(), out.resolve())
        left_out = len(written.errors)
        Record(relative, digest, len(listing), left_out, written.checksums).write(parts[RECORD_NAME])
        for name, part in parts.items():
            os.replace(part, out / name)
    except OSError as error:
        reason = f"{listing.corpus} could not be packed into {out} ({error.strerror or error})"
        raise OSError(f"{reason}; nothing of it stays: make room, or give another --data.packed") from error
    except BrokenProcessPool as error:
        raise OSError(f"a process that decodes {listing.corpus} was killed: give fewer --data.workers") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
        _remove_decoded(out)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of a folder; wait, and say so once, while another process holds it."""
    refusal, waits = f"{out}: another process is packing into this folder", False
    while True:
        try:
            lock = ProcessLock(out / LOCK_NAME, refusal)
            break
        except ValueError as error:
            if not str(error).startswith(refusal):
                raise
            if not waits:
                logger.warning("%s: waiting for it", error)
            waits = True
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Written:
    """What `_decode` wrote, and what it left out."""

    rows: list[tuple[str, str, int]] = field(default_factory=list)
    """Name, kind and samples of each clip."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason of what was left out."""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """Name and note of what was noticed about clips."""
    checksums: list[int] = field(default_factory=list)
    """CRC-32 of each block of the audio."""


def _decode(tasks: list[Task], path: Path, workers: int, failures: list[str]) -> _Written:
    """Write the samples of all clips to ``path``."""
    written = _Written()
    decode = functools.partial(_decode_task, folder=path.parent)
    with path.open("wb") as file, mapping(workers) as apply:
        audio = _Checked(file)
        for clips in progress_bar(apply(decode, tasks), total=len(tasks), unit="part", desc="decoding"):
            for name, kind, samples, notes in clips:
                written.warnings += [(name, note) for note in notes]
                if isinstance(samples, str):
                    failures.append(samples)
                    written.errors.append((name, samples.removeprefix(f"{name}: ")))
                    logger.warning("left out: %s", samples)
                else:
                    written.rows.append((name, kind, _write_samples(audio, samples)))
            _remove_decoded(path.parent, {samples.path for _, _, samples, _ in clips if isinstance(samples, Stored)})
        file.flush()
        os.fsync(file.fileno())
        written.checksums = audio.checksums()
    if written.warnings:
        logger.warning("%d warnings about clips that were decoded, in %s", len(written.warnings), WARNINGS_NAME)
    return written


def _write_samples(audio: "_Checked", samples: np.ndarray | Stored) -> int:
    """Write the samples of a clip; return how many."""
    if not isinstance(samples, Stored):
        audio.write(samples.tobytes())
        return len(samples)
    with open(samples.path, "rb") as file:  # noqa: PTH123
        file.seek(samples.offset)
        missing = samples.samples * SAMPLE_BYTES
        while block := file.read(min(missing, BLOCK_BYTES)):
            audio.write(block)
            missing -= len(block)
    return samples.samples


def _remove_decoded(out: Path, paths: Iterable[str] | None = None) -> None:
    """Remove the files that hold what tasks decoded, or some of them."""
    for path in out.glob(f"*{DECODED_SUFFIX}") if paths is None else map(Path, paths):
        path.unlink(missing_ok=True)


class _Checked:
    """Writes to a file and computes the checksums of its blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._whole, self._checksum, self._filled = file, list[int](), 0, 0

    def write(self, data: bytes) -> None:
        """Write bytes."""
        self._file.write(data)
        rest = memoryview(data)
        while rest:
            piece = rest[: BLOCK_BYTES - self._filled]
            self._checksum, self._filled = zlib.crc32(piece, self._checksum), self._filled + len(piece)
            if self._filled == BLOCK_BYTES:
                self._whole.append(self._checksum)
                self._checksum = self._filled = 0
            rest = rest[len(piece) :]

    def checksums(self) -> list[int]:
        """CRC-32 of each block that was written, the last of which may be shorter."""
        return [*self._whole, self._checksum] if self._filled else self._whole


def _write_table(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(lines(rows, "\t"))


def _tasks(listing: Listing) -> list[Task]:
    """The shards of a corpus, and its files in groups."""
    files = [(path, path.name if path.suffix == ".tar" else kind) for path, kind in listing.files]
    groups = [files[i : i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]
    return [[(path, listing.name(path))] for path in listing.shards] + groups


def _decode_task(task: Task, folder: Path) -> list[Clip]:
    """Decode files; what is beyond `TASK_SAMPLES` goes to a file in ``folder``."""
    clips, samples, file = list[Clip](), 0, None
    with contextlib.ExitStack() as stack:
        for clip in (clip for path, about in task for clip in _decode_file(path, about)):
            samples += len(clip.samples) if isinstance(clip.samples, np.ndarray) else 0
            if isinstance(clip.samples, np.ndarray) and samples > TASK_SAMPLES:
                file = file or stack.enter_context(_temporary(folder))
                clips.append(clip._replace(samples=Stored(file.name, file.tell(), len(clip.samples))))
                file.write(clip.samples.data)
            else:
                clips.append(clip)
    return clips


def _temporary(folder: Path) -> IO[bytes]:
    """Make a file that stays until `_remove_decoded`."""
    return tempfile.NamedTemporaryFile(dir=folder, suffix=DECODED_SUFFIX, delete=False)


def _decode_file(path: Path, about: str) -> Iterator[Clip]:
    if path.suffix == ".tar":
        yield from _read_shard(path, about)
    else:
        yield _read(str(path), about, path)


def _read_shard(path: Path, shard: str) -> Iterator[Clip]:
    """Decode the clips of a shard in its order; of a shard that is cut short, the clips before that point."""
    members: list[Member] = []
    descriptions: dict[str, Member] = {}
    try:
        for member in list_members(str(path), {*AUDIO_SUFFIXES, ".json"}):
            if member.name.lower().endswith(".json"):
                descriptions[_key(member)] = member
            else:
                members.append(member)
        broken = None
    except ValueError as error:
        broken = str(error)
    try:
        with path.open("rb") as file:
            for member in members:
                yield _read_member(file, f"{shard}/{member.name}", member, descriptions.get(_key(member)))
    except OSError as error:
        broken = broken or f"cannot be read ({error.strerror or error})"
    if broken:
        yield Clip(shard, "", f"{shard}: {broken}")


def _read_member(file: BinaryIO, name: str, member: Member, description: Member | None) -> Clip:
    kind = ""
    try:
        if description is not None and description.error is None and description.size <= MAX_DESCRIPTION_BYTES:
            kind = _kind(read_member(file, description))
        return _read(name, kind, io.BytesIO(read_member(file, member)))
    except ValueError as error:
        return Clip(name, kind, f"{name}: {error}")


def _key(member: Member) -> str:
    return member.name.rpartition(".")[0]


def _kind(text: bytes) -> str:
    """The field ``kind`` of a clip's JSON; "" if there is none, or no JSON."""
    try:
        description = json.loads(text)
    except ValueError:
        return ""
    return str(description.get("kind", "")) if isinstance(description, dict) else ""


def _read(name: str, kind: str, source: Path | io.BytesIO) -> Clip:
    join = BoundedJoin(name, MAX_HOURS)
    try:
        decoded = decode_audio(source, join=join)
        return Clip(name, kind, to_int16(decoded.samples), decoded.notes)
    except AudioError as error:
        return Clip(name, kind, f"{name}: {str(error).removeprefix(f'{name}: ')}")
    finally:
        join.close()

"""What `maeast embed` reads: files, folders, manifests, tars, packed corpora and stdin become a lazy list of segments.

Paths are text with surrogates for bytes that are not UTF-8, joined as text: a `Path` for each of millions of files
would be most of the memory and time. Hence no pathlib here.
"""

import functools
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from maeast_upstream.audio.reading import AUDIO_SUFFIXES
from maeast_upstream.data.manifest import MANIFEST_SUFFIXES, read_manifest
from maeast_upstream.data.packed import AUDIO_NAME, SAMPLE_BYTES, is_packed, packed_clips
from maeast_upstream.data.tars import list_members
from maeast_upstream.storage.remote import is_remote, remote_kind, walk_remote

STDIN = "-"
TAR_SUFFIX = ".tar"
BYTES_PER_MS = 16
"""128 kbit/s: what a stretch counts for in `cost`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of audio to embed, and where its bytes lie."""

    path: str
    """Its name in the table: the file, ``shard.tar/member.opus``, or a packed clip's name."""
    number: int = 0
    """0 for whole files and members of tars; the row of a manifest, counted from 0; the number of a packed clip."""
    start_ms: float | None = None
    """Where a stretch of the file begins; None for its beginning."""
    end_ms: float | None = None
    """Where it ends; None for the file's end."""
    offset: int | None = None
    """First byte in ``file``, of members and packed clips."""
    size: int | None = None
    """Bytes, where the listing knows them."""
    file: str = ""
    """What to open where that is not ``path``: the tar, or the packed corpus's samples."""
    packed: bool = False
    """Whether the bytes are 16 kHz int16 samples."""
    error: str | None = None
    """Why there is nothing to read: not audio but an entry for the list of errors, such as a tar cut short."""


def list_segments(inputs: str | Path | Iterable[str | Path], stdin: BinaryIO | None = None) -> Iterator[Segment]:
    """Everything that the inputs hold, lazily, in the order of the inputs; the same for the same files.

    - A folder: audio files by their suffix, members of ``.tar`` files, packed corpora, at any depth, sorted by name in
      each folder; links to folders are not followed. It is listed without what is an input of its own.
    - ``.tsv``, ``.csv``: a manifest (`read_manifest`). A folder's manifests are not read.
    - ``.tar``: a WebDataset shard: its members with an audio suffix; links and sparse files among them are segments
      with ``error``. Of one that is cut short the whole members, then a segment with ``error``.
    - A folder that `pretrain.pack` wrote: its clips.
    - ``-``: a path a line on stdin: audio files or tars. Whether they exist shows when they are read.
    - Any other file is taken for audio. Any of these may be an fsspec address, apart from packed corpora.

    An input that is given twice is listed once; a file that two manifests name is listed twice.

    Raises:
        ValueError: at once for an input that does not exist, a folder without audio, a manifest without rows; later
            for a row of a manifest that cannot be understood.
    """
    unique: dict[str, str] = {}
    for item in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        path = _normal(os.fspath(item))
        unique.setdefault(_identity(path), path)
    for path in unique.values():
        _check(path)
    return (segment for own, path in unique.items() for segment in _list(path, frozenset(unique) - {own}, stdin))


def cost(segment: Segment) -> int:
    """About the bytes of its audio, without opening it; 0 where nothing is known of it, and for addresses on their own.

    Raises nothing.
    """
    if segment.size is not None:
        return segment.size
    if segment.end_ms is not None:
        return int((segment.end_ms - (segment.start_ms or 0.0)) * BYTES_PER_MS)
    return file_bytes(segment)


def segment_of(path: str) -> Segment:
    """The whole file, or the member of a tar, that a table calls ``path``; a packed clip's name does not say where."""
    head, ending, member = path.partition(TAR_SUFFIX + "/")
    tar = head + TAR_SUFFIX
    if member and ending and (is_remote(tar) or os.path.isfile(tar)):
        return _members_of(tar).get(path, Segment(path, error=f"{path}: no such member of {tar}"))
    return Segment(path)


@functools.lru_cache(maxsize=1)
def _members_of(tar: str) -> dict[str, Segment]:
    return {as_text(segment.path): segment for segment in _from_tar(tar)}


def file_bytes(segment: Segment) -> int:
    """Bytes of what has to be opened; 0 where that is not known."""
    if segment.size is not None or segment.error is not None or is_remote(segment.file or segment.path):
        return segment.size or 0
    try:
        return os.stat(segment.path).st_size
    except (OSError, ValueError):
        return 0


def as_text(path: str) -> str:
    r"""A path as tables hold it: bytes that are not UTF-8 are spelt out, such as \xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _normal(path: str) -> str:
    if not path:
        raise ValueError("an empty path; expected a file, a folder or - for stdin")
    return path if is_remote(path) or path == STDIN else str(Path(path))


def _identity(path: str) -> str:
    return path.rstrip("/") if is_remote(path) or path == STDIN else os.path.abspath(path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _check(item: str) -> None:
    """ValueError for what shows at once."""
    if item == STDIN:
        return
    kind = remote_kind(item) if is_remote(item) else _local_kind(item)
    if kind is None:
        raise ValueError(f"{item}: no such file or folder")
    if kind == "directory" and next(_list(item), None) is None:
        raise ValueError(f"{item}: a folder without audio; looked for {' '.join(sorted(AUDIO_SUFFIXES))} .tar")
    if kind != "directory" and _suffix(item) in MANIFEST_SUFFIXES:
        next(read_manifest(item))


def _local_kind(path: str) -> str | None:
    if os.path.isdir(path):
        return "directory"
    return "file" if os.path.exists(path) else None


def _list(item: str, own: frozenset[str] = frozenset(), stdin: BinaryIO | None = None) -> Iterator[Segment]:
    if item == STDIN:
        return _from_stdin(stdin or sys.stdin.buffer)
    if is_remote(item):
        return _from_remote(item, own) if remote_kind(item) == "directory" else _from_file(item)
    return _from_folder(item, own) if os.path.isdir(item) else _from_file(item)


def _from_file(path: str) -> Iterator[Segment]:
    suffix = _suffix(path)
    if suffix == TAR_SUFFIX:
        yield from _from_tar(path)
    elif suffix in MANIFEST_SUFFIXES:
        for row in read_manifest(path):
            yield Segment(row.path, row.number, row.start_ms, row.end_ms)
    else:
        yield Segment(path)


def _from_stdin(lines: BinaryIO) -> Iterator[Segment]:
    for line in lines:
        if path := os.fsdecode(line.rstrip(b"\r\n")):
            yield from (_from_tar(path) if _suffix(path) == TAR_SUFFIX else iter([Segment(path)]))


def _from_folder(folder: str, own: frozenset[str]) -> Iterator[Segment]:
    if is_packed(folder):
        yield from _from_packed(folder)
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
    except OSError as error:
        yield Segment(folder, error=f"{folder}: cannot be read ({error.strerror or error})")
        return
    prefix = "" if folder == "." else folder
    for name, is_folder in entries:
        path = os.path.join(prefix, name)
        if own and os.path.abspath(path) in own:
            continue
        if is_folder:
            yield from _from_folder(path, own)
        elif (suffix := _suffix(name)) in AUDIO_SUFFIXES:
            yield Segment(path)
        elif suffix == TAR_SUFFIX:
            yield from _from_tar(path)


def _from_remote(folder: str, own: frozenset[str]) -> Iterator[Segment]:
    try:
        for url, size in walk_remote(folder):
            if url in own:
                continue
            if (suffix := _suffix(url)) in AUDIO_SUFFIXES:
                yield Segment(url, size=size)
            elif suffix == TAR_SUFFIX:
                yield from _from_tar(url)
    except (OSError, ValueError) as error:
        yield Segment(folder, error=f"{folder}: not listed to its end ({error})")


def _from_packed(folder: str) -> Iterator[Segment]:
    place, file = 0, os.path.join(folder, AUDIO_NAME)
    for number, (name, _, samples) in enumerate(packed_clips(Path(folder))):
        size = samples * SAMPLE_BYTES
        yield Segment(name, number, offset=place, size=size, file=file, packed=True)
        place += size


def _from_tar(path: str) -> Iterator[Segment]:
    try:
        for member in list_members(path, AUDIO_SUFFIXES):
            name = f"{path}/{member.name}"
            if member.error is None:
                yield Segment(name, offset=member.offset, size=member.size, file=path)
            else:
                yield Segment(name, error=f"{name}: {member.error}")
    except ValueError as error:
        yield Segment(path, error=f"{path}: {error}")

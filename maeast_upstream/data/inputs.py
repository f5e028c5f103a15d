"""Lists the segments of audio in files, folders, manifests, tars, packed corpora and stdin, for `maeast embed`.

Paths are text, with surrogates for bytes that are not UTF-8. pathlib is not used, because a `Path` for each of millions
of files would need most of the memory and time.
"""

import functools
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from maeast_upstream.audio.files import AUDIO_SUFFIXES, is_hidden
from maeast_upstream.data.manifest import MANIFEST_SUFFIXES, read_manifest
from maeast_upstream.data.packed import AUDIO_NAME, SAMPLE_BYTES, is_copy_of_parent, is_packed, packed_clips
from maeast_upstream.data.shown_names import with_shown_names
from maeast_upstream.data.tars import list_members
from maeast_upstream.display import as_text, without_secrets
from maeast_upstream.storage.remote import is_remote, remote_type, walk_remote

logger = logging.getLogger(__name__)

STDIN = "-"
TAR_SUFFIX = ".tar"
BYTES_PER_MS = 16
"""Assumed size of a segment of a file in `cost`: 128 kbit/s."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of audio to embed, and where its bytes are stored."""

    path: str
    """Name in the table: the file, ``shard.tar/member.opus``, or the name of a packed clip."""
    number: int = 0
    """Row of a manifest or number of a packed clip, counted from 0; 0 for whole files and members of tars."""
    start_ms: float | None = None
    """Start of the segment in the file; None for the beginning of the file."""
    end_ms: float | None = None
    """Its end; None for the end of the file."""
    offset: int | None = None
    """Position of its first byte in ``file``, for members of tars and packed clips."""
    size: int | None = None
    """Number of bytes, where the listing knows it."""
    file: str = ""
    """File to open, if it is not ``path``: the tar, the samples of the packed corpus, or an address with a password."""
    packed: bool = False
    """Whether the bytes are 16 kHz int16 samples."""
    error: str | None = None
    """Reason why it cannot be read, found while listing, such as a tar cut short; it goes to the list of errors."""
    notes: tuple[str, ...] = ()
    """What was noticed while it was listed or decoded, such as audio that ends before its manifest's row; each in one
    line without the path. They go to the list of warnings."""


def list_segments(inputs: str | Path | Iterable[str | Path], stdin: BinaryIO | None = None) -> Iterator[Segment]:
    """List all segments of the inputs lazily, in the order of the inputs; the same files give the same list.

    - A folder gives its audio files (by their suffix), members of its ``.tar`` files, and clips of packed corpora, at
      any depth and sorted by name in each folder. Links to folders are not followed, manifests in it are not read,
      and files or folders that are inputs themselves or hidden, see `is_hidden`, are left out.
    - ``.tsv`` and ``.csv`` are manifests, see `read_manifest`.
    - ``.tar`` gives its members with an audio suffix. Links and sparse files among them, and the end of a tar that is
      cut short, are segments with an ``error``.
    - A folder that `pretrain.pack` wrote gives its clips; one in the folder that it was packed from is left out there.
    - ``-`` reads one path per line from stdin: audio files or tars, which are not checked before they are read.
    - Any other file counts as audio. Each of these but packed corpora may be an address that fsspec knows.

    Names have no passwords or signatures of addresses in them, see `ShownNames`.

    An input that is given twice is listed once; a file in two manifests is listed twice.

    Raises:
        ValueError: At once, an input does not exist, a folder has no audio or a manifest no rows; while listing, a row
            of a manifest is invalid.
    """
    unique: dict[str, str] = {}
    for item in [inputs] if isinstance(inputs, (str, Path)) else inputs:
        path = _normal(os.fspath(item))
        unique.setdefault(_identity(path), path)
    for path in unique.values():
        _check(path)
    return with_shown_names(
        segment for identity, path in unique.items() for segment in _list(path, frozenset(unique) - {identity}, stdin)
    )


def cost(segment: Segment) -> int:
    """Estimate the bytes of a segment's audio without opening it; 0 where nothing is known, as of single addresses."""
    if segment.size is not None:
        return segment.size
    if segment.end_ms is not None:
        return int((segment.end_ms - (segment.start_ms or 0.0)) * BYTES_PER_MS)
    return file_bytes(segment)


def segment_of(path: str) -> Segment:
    """Return the segment of a ``path`` in a table: a whole file or a member of a tar, but not a packed clip."""
    head, ending, member = path.partition(TAR_SUFFIX + "/")
    tar = head + TAR_SUFFIX
    if member and ending and (is_remote(tar) or os.path.isfile(tar)):
        return _members_of(tar).get(path, Segment(path, error=f"{path}: no such member of {tar}"))
    return Segment(path)


@functools.lru_cache(maxsize=1)
def _members_of(tar: str) -> dict[str, Segment]:
    return {as_text(segment.path): segment for segment in _from_tar(tar)}


def file_bytes(segment: Segment) -> int:
    """Return the bytes of the file or member to decode; 0 where they are not known."""
    if segment.size is not None or segment.error is not None or is_remote(segment.file or segment.path):
        return segment.size or 0
    try:
        return os.stat(segment.path).st_size
    except (OSError, ValueError):
        return 0


def _normal(path: str) -> str:
    if not path:
        raise ValueError("an empty path; expected a file, a folder or - for stdin")
    return path if is_remote(path) or path == STDIN else str(Path(path))


def _identity(path: str) -> str:
    return path.rstrip("/") if is_remote(path) or path == STDIN else os.path.abspath(path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _check(item: str) -> None:
    """Raise ValueError for an input that cannot be listed."""
    if item == STDIN:
        return
    file_type = remote_type(item) if is_remote(item) else _local_type(item)
    if file_type is None:
        raise ValueError(f"{without_secrets(item)}: no such file or folder")
    if file_type == "directory" and next(_list(item), None) is None:
        raise ValueError(f"{item}: a folder without audio; looked for {' '.join(sorted(AUDIO_SUFFIXES))} .tar")
    if file_type != "directory" and _suffix(item) in MANIFEST_SUFFIXES:
        next(read_manifest(item))


def _local_type(path: str) -> str | None:
    if os.path.isdir(path):
        return "directory"
    return "file" if os.path.exists(path) else None


def _list(item: str, excluded: frozenset[str] = frozenset(), stdin: BinaryIO | None = None) -> Iterator[Segment]:
    if item == STDIN:
        return _from_stdin(stdin or sys.stdin.buffer)
    if is_remote(item):
        return _from_remote(item, excluded) if remote_type(item) == "directory" else _from_file(item)
    return _from_folder(item, excluded) if os.path.isdir(item) else _from_file(item)


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


def _from_folder(folder: str, excluded: frozenset[str]) -> Iterator[Segment]:
    if is_packed(folder):
        yield from _from_packed(folder)
    try:
        with os.scandir(folder) as scanned:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scanned)
    except OSError as error:
        yield Segment(folder, error=f"{folder}: cannot be read ({error.strerror or error})")
        return
    prefix = "" if folder == "." else folder
    for name, is_folder in entries:
        if is_hidden(name):
            continue
        path = os.path.join(prefix, name)
        if excluded and os.path.abspath(path) in excluded:
            continue
        if is_folder and is_copy_of_parent(path):
            logger.warning("%s: the packed copy of a folder that it lies in is left out", path)
        elif is_folder:
            yield from _from_folder(path, excluded)
        elif (suffix := _suffix(name)) in AUDIO_SUFFIXES:
            yield Segment(path)
        elif suffix == TAR_SUFFIX:
            yield from _from_tar(path)


def _from_remote(folder: str, excluded: frozenset[str]) -> Iterator[Segment]:
    try:
        for url, size in walk_remote(folder):
            if url in excluded or is_hidden(os.path.basename(url)):
                continue
            if (suffix := _suffix(url)) in AUDIO_SUFFIXES:
                yield Segment(url, size=size)
            elif suffix == TAR_SUFFIX:
                yield from _from_tar(url)
    except (OSError, ValueError) as error:
        yield Segment(folder, error=f"{folder}: not listed to its end ({error})")


def _from_packed(folder: str) -> Iterator[Segment]:
    offset, file = 0, os.path.join(folder, AUDIO_NAME)
    for number, (name, _, samples) in enumerate(packed_clips(Path(folder))):
        size = samples * SAMPLE_BYTES
        yield Segment(name, number, offset=offset, size=size, file=file, packed=True)
        offset += size


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

"""Lists the segments of audio in files, folders, manifests, tars, packed corpora and stdin, for `maeast embed`.

Paths are text, with surrogates for bytes that are not UTF-8. pathlib is not used, because a `Path` for each of millions
of files would need most of the memory and time.
"""

import functools
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from maeast_upstream.audio.files import AUDIO_SUFFIXES
from maeast_upstream.data.manifest import MANIFEST_SUFFIXES, found_path, read_manifest
from maeast_upstream.data.packed import AUDIO_NAME, SAMPLE_BYTES, is_copy_of_parent, is_packed, packed_clips
from maeast_upstream.data.relative_names import Root, located
from maeast_upstream.data.segment import Segment as Segment
from maeast_upstream.data.shown_names import ShownNames
from maeast_upstream.data.tars import list_members
from maeast_upstream.display import as_name, from_name, without_secrets
from maeast_upstream.storage.remote import is_remote, remote_type
from maeast_upstream.storage.text import as_lines, file_name, lines_of
from maeast_upstream.storage.walking import Entry, Identity, LeftOut, identity_of, walk, walk_remote

logger = logging.getLogger(__name__)

STDIN = "-"
TAR_SUFFIX = ".tar"
BYTES_PER_MS = 16
"""Assumed size of a segment of a file in `cost`: 128 kbit/s."""


def list_segments(
    inputs: str | Path | Iterable[str | Path],
    stdin: BinaryIO | None = None,
    path_column: str | None = None,
    relative_to: Root | None = None,
) -> Iterator[Segment]:
    """List all segments of the inputs lazily, in the order of the inputs; the same files give the same list.

    - A folder gives its audio files (by their suffix), members of its ``.tar`` files, and clips of packed corpora, at
      any depth and sorted by name in each folder, then those of folders that links lead to, each folder once, see
      `walk`. Manifests in it are not read. Files and folders that are hidden are left out, and one line of the log
      counts them; so are those that are inputs themselves.
    - ``.tsv``, ``.csv`` and the ``.txt`` of annotation programs are manifests, see `read_manifest`.
    - ``.tar`` gives its members with an audio suffix. Links and sparse files among them, and the end of a tar that is
      cut short, are segments with an ``error``.
    - A folder that `pretrain.pack` wrote gives its clips; one in the folder that it was packed from is left out there.
    - ``-`` reads one path per line from stdin: audio files or tars, which are not checked before they are read. A list
      may begin with a byte order mark, and with one be UTF-16.
    - Any other file counts as audio. Each of these but packed corpora may be an address that fsspec knows.

    Names have no passwords or signatures of addresses in them, see `ShownNames`.

    An input that is given twice is listed once; a file in two manifests is listed twice.

    Args:
        inputs: Paths or addresses.
        stdin: What ``-`` reads; None for this process's.
        path_column: What manifests call the column of paths; None for ``path``.
        relative_to: The folder that names in a table are relative to; None for paths as they are.

    Raises:
        ValueError: At once, an input does not exist, a folder has no audio or a manifest no rows, or ``path_column`` is
            given without a manifest; while listing, a row of a manifest or a line of stdin is invalid, or a
            file is outside the folder ``relative_to``.
    """
    unique: dict[str, str] = {}
    for item in [inputs] if isinstance(inputs, (str, Path)) or not isinstance(inputs, Iterable) else inputs:
        if not isinstance(item, (str, os.PathLike)):
            raise ValueError(f"an input of type {type(item).__name__}; expected paths or addresses")
        path = _normal(os.fspath(item))
        unique.setdefault(_identity(path), path)
    if path_column is not None and not any(_suffix(path) in MANIFEST_SUFFIXES for path in unique.values()):
        raise ValueError(
            f"a column of paths, {path_column!r}, goes with a manifest (.tsv, .csv, .txt), and none is given"
        )
    for path in unique.values():
        _Listing([path], path_column).check()
    segments = with_shown_names(_Listing(list(unique.values()), path_column, stdin).segments())
    if relative_to is None:
        return segments
    # packed clips have names of their own
    return (x if x.packed else replace(x, name=relative_to.name(x.path)) for x in segments)


def cost(segment: Segment) -> int:
    """Estimate the bytes of a segment's audio without opening it; 0 where nothing is known, as of single addresses."""
    if segment.size is not None:
        return segment.size
    if segment.end_ms is not None:
        return int((segment.end_ms - (segment.start_ms or 0.0)) * BYTES_PER_MS)
    return file_bytes(segment)


def segment_of(path: str, root: str = "") -> Segment:
    """Return the segment of a ``path`` in a table: a whole file or a member of a tar, but not a packed clip.

    Args:
        path: As the table has it.
        root: The folder that it is relative to; "" for the current folder.
    """
    path = located(path, root)
    head, ending, member = path.partition(TAR_SUFFIX + "/")
    tar = head + TAR_SUFFIX
    if member and ending and (is_remote(tar) or os.path.isfile(tar)):
        return _members_of(tar).get(path, Segment(path, error=f"{path}: no such member of {tar}"))
    return Segment(path if is_remote(path) else from_name(path))


@functools.lru_cache(maxsize=1)
def _members_of(tar: str) -> dict[str, Segment]:
    return {as_name(segment.path): segment for segment in _from_tar(tar)}


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


class _Listing:
    """Lists inputs once, and keeps what one input must know of the others."""

    def __init__(self, inputs: list[str], path_column: str | None = None, stdin: BinaryIO | None = None) -> None:
        self._inputs, self._path_column, self._stdin = inputs, path_column, stdin
        self._seen: set[Identity] = set()
        self._left_out = LeftOut()
        local = [path for path in inputs if not is_remote(path) and path != STDIN]
        self._names = frozenset(map(_identity, inputs)) if len(inputs) > 1 else frozenset()
        self._folders = {path: identity_of(path) for path in local if os.path.isdir(path)}

    def check(self) -> None:
        """Raise ValueError for an input that cannot be listed."""
        for item in self._inputs:
            if item == STDIN:
                continue
            file_type = remote_type(item) if is_remote(item) else _local_type(item)
            if file_type is None:
                raise ValueError(f"{without_secrets(item)}: no such file or folder")
            if file_type == "directory" and next(self._list(item), None) is None:
                known = f"looked for {' '.join(sorted(AUDIO_SUFFIXES))} .tar"
                problem = "; ".join(filter(None, ["a folder without audio", str(self._left_out), known]))
                raise ValueError(f"{without_secrets(item)}: {problem}")
            if file_type != "directory" and _suffix(item) in MANIFEST_SUFFIXES:
                next(read_manifest(item, self._path_column, note=True))

    def segments(self) -> Iterator[Segment]:
        """Yield the segments of all inputs, then log what was left out."""
        for item in self._inputs:
            yield from self._list(item)
        self._left_out.log()

    def _list(self, item: str) -> Iterator[Segment]:
        if item == STDIN:
            return _from_stdin(self._stdin or sys.stdin.buffer)
        if is_remote(item):
            return self._from_remote(item) if remote_type(item) == "directory" else self._from_file(item)
        return self._from_folder(item) if item in self._folders else self._from_file(item)

    def _from_file(self, path: str) -> Iterator[Segment]:
        suffix = _suffix(path)
        if suffix == TAR_SUFFIX:
            yield from _from_tar(path)
        elif suffix in MANIFEST_SUFFIXES:
            for row in read_manifest(path, self._path_column):
                yield Segment(row.path, row.number, row.start_ms, row.end_ms)
        else:
            yield Segment(path)

    def _from_folder(self, folder: str) -> Iterator[Segment]:
        names = self._names - {_identity(folder)}
        folders = {identity for path, identity in self._folders.items() if path != folder}
        for entry in walk(folder, self._seen, names, folders):
            if entry.kind == "unreadable folder":
                yield Segment(entry.path, error=f"{entry.path}: cannot be read ({entry.reason})")
            elif entry.kind == "folder" and is_packed(entry.path):
                if entry.path != folder and is_copy_of_parent(entry.path):
                    logger.warning("%s: the packed copy of a folder that it lies in is left out", entry.path)
                else:
                    yield from _from_packed(entry.path)
            else:
                yield from self._from_entry(entry)

    def _from_remote(self, folder: str) -> Iterator[Segment]:
        names = self._names - {_identity(folder)}
        try:
            for entry in walk_remote(folder):
                if entry.path not in names:
                    yield from self._from_entry(entry)
        except (OSError, ValueError) as error:
            yield Segment(folder, error=f"{folder}: not listed to its end ({error})")

    def _from_entry(self, entry: Entry) -> Iterator[Segment]:
        suffix = _suffix(entry.path.rpartition("/")[2].lstrip("."))
        is_input = suffix in AUDIO_SUFFIXES or suffix == TAR_SUFFIX
        if entry.kind in ("file", "broken link") and is_input:
            yield from (_from_tar(entry.path) if suffix == TAR_SUFFIX else [Segment(entry.path, size=entry.size)])
        elif entry.kind not in ("file", "folder", "hidden file") or (entry.kind == "hidden file" and is_input):
            self._left_out.add(entry)


def _local_type(path: str) -> str | None:
    if os.path.isdir(path):
        return "directory"
    return "file" if os.path.exists(path) else None


def _from_stdin(stdin: BinaryIO) -> Iterator[Segment]:
    text = as_lines(stdin, newline="\n")
    try:
        for number, line in enumerate(lines_of(text, "stdin"), start=1):
            if "\0" in line:
                raise ValueError(f"stdin: a zero byte in line {number}; expected text in UTF-8 with one path per line")
            name = line.rstrip("\r\n")
            for part in name.split("\r") if "\r" in name and not os.path.lexists(file_name(name)) else [name]:
                if path := found_path("", file_name(part)):
                    yield from (_from_tar(path) if _suffix(path) == TAR_SUFFIX else iter([Segment(path)]))
    finally:
        text.detach()


def _from_packed(folder: str) -> Iterator[Segment]:
    offset, file = 0, os.path.join(folder, AUDIO_NAME)
    for number, (name, _, samples) in enumerate(packed_clips(Path(folder))):
        size = samples * SAMPLE_BYTES
        yield Segment(name, number, offset=offset, size=size, file=file, packed=True)
        offset += size


def _from_tar(path: str) -> Iterator[Segment]:
    try:
        counts: Counter[int] = Counter()
        for member in list_members(path, AUDIO_SUFFIXES):
            name = f"{path}/{member.name}"
            if member.error is None:
                number = counts[hash(name)]  # 8 bytes of memory rather than the name
                counts[hash(name)] += 1
                yield Segment(name, number, offset=member.offset, size=member.size, file=path)
            else:
                yield Segment(name, error=f"{name}: {member.error}")
    except ValueError as error:
        yield Segment(path, error=f"{path}: {error}")


def with_shown_names(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Replace the ``path`` of segments whose address has secrets; ``file`` keeps the address to open.

    Raises:
        ValueError: One that the listing raises; addresses in its message have no secrets.
    """
    names = ShownNames()
    try:
        for segment in segments:
            if not is_remote(segment.path) or (name := names.name(segment.path, segment.file)) == segment.path:
                yield segment
                continue
            error = segment.error and without_secrets(segment.error, segment.path)
            yield replace(segment, path=name, file=segment.file or segment.path, error=error)
    except ValueError as error:
        raise ValueError(without_secrets(str(error))) from error

"""Members of tar files, such as WebDataset shards: listed by their headers, so that each can be read where it lies."""

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from maeast_upstream.audio.files import is_hidden
from maeast_upstream.data.tar_headers import (
    FOLDER,
    HARD_LINK,
    REGULAR_TYPES,
    SPARSE,
    SYMBOLIC_LINK,
    read_headers,
)
from maeast_upstream.storage.remote import is_remote, open_remote

MAX_MEMBER_BYTES = 1 << 31
"""Limit of a member that is read into memory: 3 hours of 16-bit stereo at 48 kHz."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar."""

    name: str
    """Its path in the tar; bytes that are not UTF-8 are kept as surrogates."""
    offset: int = 0
    """Position of its first byte in the tar."""
    size: int = 0
    """Number of its bytes."""
    error: str | None = None
    """The reason why its content is not in the tar as it is, such as a link; None for a plain file."""


def list_members(path: str, suffixes: Collection[str]) -> Iterator[Member]:
    """List the files of an uncompressed tar that have one of the suffixes, in the order of the tar.

    Args:
        path: A local path, or an address that fsspec knows.
        suffixes: Lower-case suffixes with their dot; members with others, and hidden ones, are skipped.

    Yields:
        Plain files; and links, sparse files and what else is not stored as it is, with an error. Folders are skipped.

    Raises:
        ValueError: The tar cannot be read, or is broken or cut short; raised after the members before that point. The
            message gives the reason without the path.
    """
    try:
        if not is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # reading might never begin
            raise ValueError("a pipe or device; expected a file")
        with open_remote(path) if is_remote(path) else open(path, "rb") as file:  # noqa: PTH123
            yield from members_of(file, suffixes)
    except Exception as error:
        if not isinstance(error, (OSError, ValueError)) and not is_remote(path):
            raise
        # the packages of protocols have errors of many types
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"not a whole tar file ({reason})") from error


def members_of(file: BinaryIO, suffixes: Collection[str]) -> Iterator[Member]:
    """List the members of an open tar as `list_members` does.

    ``file`` is only read forward, and may be read between two members, as by `read_member`.

    Raises:
        OSError, ValueError: The tar is broken or cut short.
    """
    for name, member_type, linkname, offset, size in read_headers(file):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if suffix not in suffixes or is_hidden(name) or member_type == FOLDER:
            continue
        if member_type in REGULAR_TYPES:
            yield Member(name, offset, size)
        else:
            yield Member(name, error=_fault(member_type, linkname))


def read_member(file: BinaryIO, member: Member) -> bytes:
    """Read the content of a member; ValueError, without its name, if that is not there or too large for memory."""
    if member.error is not None:
        raise ValueError(member.error)
    if member.size > MAX_MEMBER_BYTES:
        raise ValueError(f"{member.size / 1e9:.1f} GB; the limit of a member is {MAX_MEMBER_BYTES >> 30} GiB")
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) < member.size:
        raise ValueError("cut off")
    return content


def _fault(member_type: bytes, linkname: str) -> str:
    if member_type in (HARD_LINK, SYMBOLIC_LINK):
        option = "--hard-dereference" if member_type == HARD_LINK else "--dereference"
        return f"a link to {linkname}; make the tar with {option}"
    if member_type == SPARSE:  # the tar holds its pieces without the zeros between them
        return "a sparse member; make the tar without --sparse (-S)"
    return f"a member of type {member_type!r}; expected a file"

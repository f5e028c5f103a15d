"""Members of tar files, such as WebDataset shards: listed by their headers, so that each can be read where it lies."""

import os
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from maeast_upstream.audio.files import is_hidden
from maeast_upstream.storage.remote import is_remote, open_remote


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
        Plain files, and links and sparse files with an error.

    Raises:
        ValueError: The tar cannot be read, or is broken or cut short; raised after the members before that point. The
            message gives the reason without the path.
    """
    try:
        with open_remote(path) if is_remote(path) else open(path, "rb") as file:  # noqa: PTH123
            yield from _members(file, suffixes)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise ValueError(f"not a whole tar file ({getattr(error, 'strerror', None) or error})") from error


def _members(file: BinaryIO, suffixes: Collection[str]) -> Iterator[Member]:
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header that it saw
            if member.size < 0 or tar.offset <= member.offset:  # the same header would come again for ever
                raise tarfile.ReadError(f"{member.name} has a negative size")
            if os.path.splitext(member.name)[1].lower() not in suffixes or is_hidden(member.name):  # noqa: PTH122
                continue
            if member.islnk() or member.issym():
                option = "--hard-dereference" if member.islnk() else "--dereference"
                error = f"a link to {member.linkname}; make the tar with {option}"
                yield Member(member.name, error=error)
            elif member.issparse():  # the tar holds its pieces without the zeros between them
                yield Member(member.name, error="a sparse member; make the tar without --sparse (-S)")
            elif member.isreg():
                if member.offset_data + member.size > total:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                yield Member(member.name, member.offset_data, member.size)
        # tarfile takes a broken header, and a file that ends between two members, for the end of the tar
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no header and no end at byte {tar.offset}")

"""Remote files and folders that fsspec reads: s3://, gs://, hdfs://, memory://, file://, ..."""

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from maeast_upstream.display import without_secrets

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::[A-Za-z][A-Za-z0-9+.\-]*)*://")


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address such as s3://bucket/key rather than a local path."""
    return _ADDRESS.match(path) is not None


def remote_type(url: str) -> str | None:
    """Return "file" or "directory", or None if nothing has that address.

    Raises:
        ValueError: There is no such protocol, its package is not installed, or the server cannot be reached.
    """
    system, path = _system(url)
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(without_secrets(f"{url}: cannot be reached ({error})")) from error


def walk_remote(url: str) -> Iterator[tuple[str, int]]:
    """Yield address and size of each file in a folder at any depth, sorted by name within each folder."""
    system, path = _system(url)
    for entry in sorted(system.ls(path, detail=True), key=lambda entry: str(entry["name"])):
        address = system.unstrip_protocol(entry["name"])
        if entry["type"] != "directory":
            yield address, int(entry.get("size") or 0)
        elif str(entry["name"]).rstrip("/") != path.rstrip("/"):  # some protocols list the folder itself, too
            yield from walk_remote(address)


def open_remote(url: str) -> BinaryIO:
    """Open a file that is fetched in blocks as they are read.

    Raises:
        OSError, ValueError: It does not exist or cannot be reached.
    """
    system, path = _system(url)
    file: BinaryIO = system.open(path, "rb")
    return file


def _system(url: str) -> tuple["AbstractFileSystem", str]:
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(without_secrets(f"{url}: its protocol is not available ({error})")) from error
    return system, str(path)


class ErrorCapturingFile(io.RawIOBase):
    """Reads a remote file and keeps the first error.

    libsndfile ignores errors of its callbacks, so that a broken connection would look like a recording cut short.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.error: Exception | None = None
        self._file = file

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``; return 0 after an error."""
        try:
            data = self._file.read(len(buffer))
        except Exception as error:  # of any type; the caller raises it again
            self.error = self.error or error
            return 0
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset, as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the current offset."""
        return self._file.tell()

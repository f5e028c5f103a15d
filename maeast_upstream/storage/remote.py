"""Files that fsspec reaches: s3://, gs://, hdfs://, memory://, file://, ..."""

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::[A-Za-z][A-Za-z0-9+.\-]*)*://")


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address such as s3://bucket/key rather than a local path."""
    return _ADDRESS.match(path) is not None


def remote_kind(url: str) -> str | None:
    """file, directory, or None where there is nothing.

    Raises:
        ValueError: no such protocol, its package is not installed, or it cannot be reached.
    """
    system, path = _system(url)
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{url}: cannot be reached ({error})") from error


def walk_remote(url: str) -> Iterator[tuple[str, int]]:
    """Address and size of each file under a folder, at any depth, sorted by name inside a folder."""
    system, path = _system(url)
    for entry in sorted(system.ls(path, detail=True), key=lambda entry: str(entry["name"])):
        found = system.unstrip_protocol(entry["name"])
        if entry["type"] != "directory":
            yield found, int(entry.get("size") or 0)
        elif str(entry["name"]).rstrip("/") != path.rstrip("/"):  # some list the folder itself
            yield from walk_remote(found)


def open_remote(url: str) -> BinaryIO:
    """The file, read in blocks as they are needed.

    Raises:
        OSError, ValueError: it is not there, or cannot be reached.
    """
    system, path = _system(url)
    file: BinaryIO = system.open(path, "rb")
    return file


def _system(url: str) -> tuple["AbstractFileSystem", str]:
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url}: its protocol is not at hand ({error})") from error
    return system, str(path)


class ErrorCapturingFile(io.RawIOBase):
    """Passes a remote file on and keeps the first error.

    libsndfile's callbacks swallow errors: a connection that broke would look like a recording cut short.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.error: Exception | None = None
        self._file = file

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``; nothing after an error."""
        try:
            data = self._file.read(len(buffer))
        except Exception as error:  # whatever a protocol raises; told again by who reads the samples
            self.error = self.error or error
            return 0
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As files do."""
        return self._file.tell()

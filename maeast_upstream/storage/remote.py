"""Remote files and folders that fsspec reads: s3://, gs://, hdfs://, memory://, file://, ..."""

import io
import re
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
    system, path = resolve(url)
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError as error:
        if refusal := _refusal(error):
            raise ValueError(without_secrets(f"{url}: cannot be read ({refusal})", url)) from error
        return None
    except (OSError, ValueError) as error:
        raise ValueError(without_secrets(f"{url}: cannot be reached ({error})")) from error


def open_remote(url: str) -> BinaryIO:
    """Open a file that is fetched in blocks as they are read.

    Raises:
        OSError, ValueError: It does not exist or cannot be reached.
    """
    system, path = resolve(url)
    try:
        file: BinaryIO = system.open(path, "rb")
    except FileNotFoundError as error:  # whose text is the address
        raise OSError(_refusal(error) or error.strerror or "no such file") from error
    return file


def _refusal(error: FileNotFoundError) -> str:
    """Return why a server gave no file, because fsspec calls any answer of HTTP "not found"; "" if there is none."""
    cause = error.__cause__
    if status := getattr(cause, "status", None):
        return "" if status == 404 else f"the server answers {status} {getattr(cause, 'message', '')}".strip()
    is_reason = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
    return (str(cause) or type(cause).__name__) if is_reason else ""


def resolve(url: str) -> tuple["AbstractFileSystem", str]:
    """Return the file system of an address, and the path in it.

    Raises:
        ValueError: There is no such protocol, or its package is not installed.
    """
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

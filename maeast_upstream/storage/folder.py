"""Files that appear whole or not at all, in a local folder or at any address that fsspec knows (s3://, gs://, hdfs://)."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from typing import IO, Any

from maeast_upstream.storage.remote import is_remote

SCRATCH = ".scratch"
"""Ending of what is being written; its name begins with a dot, which readers of parquet folders pass over."""


class Storage:
    """A folder, local or remote."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Raises ValueError if no installed package knows the address."""
        from fsspec import filesystem
        from fsspec.core import url_to_fs

        text = os.fspath(address)
        try:
            if is_remote(text) and not text.startswith("file://"):
                self.files, root = url_to_fs(text)
            else:  # not by url_to_fs: it takes :: in a folder's name for a protocol's end
                self.files = filesystem("file")
                root = self.files._strip_protocol(text)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{address}: {' '.join(str(error).split())}") from error
        self.root = str(root).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether other programs see it as a plain folder."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def path(self, name: str) -> str:
        """A file's whole path inside its file system."""
        return f"{self.root}/{name}"

    def address(self, name: str) -> str:
        """A file's or folder's address, which `Storage` takes again."""
        return str(self.files.unstrip_protocol(self.path(name)))

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file, or the folder itself."""
        return bool(self.files.exists(self.path(name) if name else self.root))

    def names(self) -> list[str]:
        """What lies in the folder, sorted; nothing if it does not exist."""
        try:
            found = self.files.ls(self.root, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def make(self, name: str = "") -> None:
        """The folder itself, or one below it."""
        self.files.makedirs(self.path(name) if name else self.root, exist_ok=True)

    def open(self, name: str) -> IO[Any]:
        """For reading bytes."""
        file: IO[Any] = self.files.open(self.path(name), "rb")
        return file

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[Any]]:
        """A file to write bytes to: it gets its name when the body ends well, and is removed otherwise."""
        folder, slash, last = name.rpartition("/")
        scratch = self.path(f"{folder}{slash}.{last}.{uuid.uuid4().hex[:8]}{SCRATCH}")
        try:
            with self.files.open(scratch, "wb") as file:
                yield file
            self._move(scratch, self.path(name))
        except BaseException:
            with contextlib.suppress(OSError):
                self.files.rm_file(scratch)
            raise

    def _move(self, old: str, new: str) -> None:
        from fsspec import AbstractFileSystem

        if type(self.files).mv is not AbstractFileSystem.mv:
            self.files.mv(old, new)
        else:  # it would expand wildcards in the names
            self.files.cp_file(old, new)
            self.files.rm_file(old)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self.path(name))

    def remove_scratch(self) -> None:
        """What a killed process left half-written."""
        for name in filter(is_scratch, self.names()):
            self.remove(name)

    def remove_if_empty(self) -> None:
        """The folder, if nothing is in it."""
        if self.exists() and not self.names():
            with contextlib.suppress(OSError):  # somebody put something there meanwhile
                self.files.rmdir(self.root)


def is_scratch(name: str) -> bool:
    """Whether it is the name of what is being written."""
    return name.startswith(".") and name.endswith(SCRATCH)

"""Folders, local or at an address that fsspec knows (s3://, gs://, hdfs://), whose files appear whole or not at all."""

import contextlib
import copy
import os
import uuid
from collections.abc import Iterator
from typing import IO, Any

from maeast_upstream.display import as_text, printable, without_secrets
from maeast_upstream.storage.remote import is_remote

SCRATCH_SUFFIX = ".scratch"
"""Suffix of unfinished files. Their names begin with a dot, so that readers of parquet folders ignore them."""


class Storage:
    """A local or remote folder. Names of its files may have slashes; the folder need not exist yet."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Raises ValueError if no installed package supports the address."""
        from fsspec import filesystem
        from fsspec.core import url_to_fs

        self._given = text = os.fspath(address)
        try:
            if is_remote(text) and not text.startswith("file://"):
                self.files, root = url_to_fs(text)
            else:  # not by url_to_fs, which reads :: in the name of a folder as the end of a protocol
                self.files = filesystem("file")
                root = self.files._strip_protocol(text)
        except (ImportError, ValueError) as error:
            raise ValueError(without_secrets(f"{address}: {' '.join(str(error).split())}", text)) from error
        self.root = str(root).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def path(self, name: str) -> str:
        """Return the path of a file inside its file system."""
        return f"{self.root}/{name}"

    def folder(self, name: str) -> "Storage":
        """Return a folder inside it, in the same file system and with the same credentials."""
        inner = copy.copy(self)
        inner.root = self.path(name)
        return inner

    def shown(self, name: str = "") -> str:
        """Return the path of a file, or without a name of the folder, for messages: as text without passwords."""
        path = printable(as_text(self.path(name) if name else self.root))
        return path if self.is_local else without_secrets(path, self._given)

    def exists(self, name: str = "") -> bool:
        """Whether the file, or without a name the folder itself, exists."""
        return bool(self.files.exists(self.path(name) if name else self.root))

    def names(self) -> list[str]:
        """Return the sorted names of the files and folders in it; none if it does not exist."""
        try:
            paths = self.files.ls(self.root, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def make(self, name: str = "") -> None:
        """Make a folder in it, or without a name the folder itself."""
        self.files.makedirs(self.path(name) if name else self.root, exist_ok=True)

    def open(self, name: str) -> IO[Any]:
        """Open a file for reading bytes."""
        file: IO[Any] = self.files.open(self.path(name), "rb")
        return file

    @contextlib.contextmanager
    def writing(self, name: str, scratch: "Storage | None" = None, *, durable: bool = True) -> Iterator[IO[Any]]:
        """Yield a binary file, which gets its name when the body ends without an error and else is removed.

        Args:
            name: Its name; what had it before is replaced, if it is a link the link and not its target.
            scratch: A folder of the same file system for the file while it is not whole; None for that of ``name``.
            durable: Whether its content is on the disk of this machine before it gets its name.
        """
        folder = scratch.root if scratch else self.path(name).rpartition("/")[0]
        part = f"{folder}/.{uuid.uuid4().hex}{SCRATCH_SUFFIX}"
        try:
            # "x" fails where there is a link of this name
            with open(part, "xb") if self.is_local else self.files.open(part, "wb") as file:  # noqa: PTH123
                yield file
                if self.is_local and durable:
                    file.flush()
                    os.fsync(file.fileno())
            self._move(part, self.path(name))
        except BaseException as error:
            if not isinstance(error, FileExistsError):
                with contextlib.suppress(OSError):
                    self.files.rm_file(part)
            raise

    def _move(self, old: str, new: str) -> None:
        from fsspec import AbstractFileSystem

        if self.is_local:
            os.replace(old, new)
        elif type(self.files).mv is not AbstractFileSystem.mv:
            self.files.mv(old, new)
        else:  # fsspec's own mv would expand wildcards in the names
            self.files.cp_file(old, new)
            self.files.rm_file(old)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self.path(name))

    def remove_scratch(self) -> None:
        """Remove the unfinished files of killed processes."""
        for name in filter(is_scratch, self.names()):
            self.remove(name)

    def remove_if_empty(self) -> None:
        """Remove the folder if it is empty."""
        if self.exists() and not self.names():
            with contextlib.suppress(OSError):  # another process has put a file there meanwhile
                self.files.rmdir(self.root)


def is_scratch(name: str) -> bool:
    """Whether it is the name of an unfinished file."""
    return name.startswith(".") and name.endswith(SCRATCH_SUFFIX)

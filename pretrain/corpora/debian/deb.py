"""Reads .deb files as what they are, an `ar` of tars: no script of a package is run, no name in it becomes a path."""

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

MAGIC = b"!<arch>\n"
HEADER_BYTES = 60
COPY_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
MAX_PACKAGE_BYTES = 4 << 30
MAX_FILES = 100_000
"""No package of the lists comes near these."""

EmbeddingSpec = Callable[[str], bool]


class ArchiveError(ValueError):
    """A package or an archive that cannot be read, with its name and the reason."""


@dataclass(frozen=True)
class Source:
    """A file of a package, unpacked."""

    name: str
    """Its path in the package; of what lies in an archive in it, ``ARCHIVE!NAME``."""
    path: Path
    """Where it lies, under a name of our own."""
    digest: str
    """SHA-256 of its bytes."""


class Room:
    """A folder that takes numbered files until it is full."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        self.files, self.left = 0, MAX_PACKAGE_BYTES

    def keep(self, name: str, stream: IO[bytes]) -> Source:
        """Copy a stream to its end.

        Raises:
            ArchiveError: it is larger than a file may be, or the package than a package may be.
        """
        path = self.path_for(name)
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            while block := stream.read(COPY_BYTES):
                size, self.left = size + len(block), self.left - len(block)
                if size > MAX_FILE_BYTES or self.left < 0:
                    raise ArchiveError(
                        f"{self.name}: {name[-80:]!r} makes it larger than the {MAX_FILE_BYTES >> 30} GiB that a file "
                        f"or the {MAX_PACKAGE_BYTES >> 30} GiB that a package may have"
                    )
                digest.update(block)
                file.write(block)
        return Source(name, path, digest.hexdigest())

    def path_for(self, name: str) -> Path:
        """A new path with the suffix of ``name``.

        Raises:
            ArchiveError: more files than a package may have.
        """
        self.files += 1
        if self.files > MAX_FILES:
            raise ArchiveError(f"{self.name}: more than {MAX_FILES} files")
        return self.folder / f"{self.files:06d}{suffix_of(name)}"


def suffix_of(name: str) -> str:
    """In lower case; "" where it is not a dot and a few letters and digits."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 8 else ""


def read_deb(deb: Path, room: Room, wanted: EmbeddingSpec) -> list[Source]:
    """Unpack the regular files of a package whose names are wanted; hard links are files, all else is passed over.

    Returns:
        In an order that the package's own does not matter to: a folder's files before its folders, by name.

    Raises:
        ArchiveError: not a .deb, broken, or larger than `Room` takes.
    """
    kept: dict[str, Source] = {}
    try:
        with deb.open("rb") as file, tarfile.open(fileobj=_data_of(file, deb), mode="r|*") as tar:
            for member in tar:
                name = member.name.removeprefix("./").lstrip("/")
                if member.islnk():
                    original = kept.get(member.linkname.removeprefix("./").lstrip("/"))
                    if original and wanted(name):
                        kept[name] = Source(name, original.path, original.digest)
                elif member.isreg() and wanted(name):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    kept[name] = room.keep(name, stream)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise ArchiveError(f"{deb.name}: not a whole Debian package ({error})") from error
    return sorted(kept.values(), key=lambda source: walk_order(source.name))


def walk_order(name: str) -> list[tuple[bool, str]]:
    """Sorts names: a folder's files before its folders."""
    *folders, last = name.split("/")
    return [*((True, folder) for folder in folders), (False, last)]


def _data_of(file: BinaryIO, deb: Path) -> "IO[bytes]":
    """The tar with a package's files."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ArchiveError(f"{deb.name}: not a Debian package")
    while len(header := file.read(HEADER_BYTES)) == HEADER_BYTES:
        try:
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        except ValueError:
            break
        if size < 0:
            break
        if name.startswith("data.tar"):
            return cast(IO[bytes], _Bounded(file, size))
        file.seek(size + size % 2, 1)
    raise ArchiveError(f"{deb.name}: a Debian package without files, or broken")


class _Bounded(io.RawIOBase):
    """So many bytes of a file, for a reader that goes on to its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data

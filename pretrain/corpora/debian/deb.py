"""Unpacks the files of a .deb with dpkg-deb: no script of the package runs, and no name in it becomes a path."""

import contextlib
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

COPY_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 30
MAX_PACKAGE_BYTES = 4 << 30
MAX_FILES = 100_000
"""No package of the lists comes near these limits."""

NameFilter = Callable[[str], bool]
"""Whether a file is used, by its name in the package."""


class ArchiveError(ValueError):
    """A package or archive that cannot be read; the message holds its name and the reason."""


@dataclass(frozen=True)
class Source:
    """An unpacked file of a package."""

    name: str
    """Its path in the package; ``ARCHIVE!NAME`` for a file in an archive of the package."""
    path: Path
    """Its path on disk, under a number."""
    digest: str
    """SHA-256 of its content."""


class UnpackFolder:
    """A folder of numbered files with limits on their number and sizes."""

    def __init__(self, folder: Path, package: str) -> None:
        """Make the folder; ``package`` is the name that error messages begin with."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.package = folder, package
        self.files, self.remaining = 0, MAX_PACKAGE_BYTES

    def store(self, name: str, stream: IO[bytes]) -> Source:
        """Copy a stream into a new file.

        Raises:
            ArchiveError: A limit is exceeded.
        """
        path = self._new_path(name)
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            while block := stream.read(COPY_BYTES):
                size, self.remaining = size + len(block), self.remaining - len(block)
                if size > MAX_FILE_BYTES or self.remaining < 0:
                    raise ArchiveError(
                        f"{self.package}: {name[-80:]!r} exceeds the limit of {MAX_FILE_BYTES >> 30} GiB per file or "
                        f"{MAX_PACKAGE_BYTES >> 30} GiB per package"
                    )
                digest.update(block)
                file.write(block)
        return Source(name, path, digest.hexdigest())

    def _new_path(self, name: str) -> Path:
        self.files += 1
        if self.files > MAX_FILES:
            raise ArchiveError(f"{self.package}: more than {MAX_FILES} files")
        return self.folder / f"{self.files:06d}{suffix_of(name)}"


def suffix_of(name: str) -> str:
    """The suffix of a name in lower case; "" unless it is a dot and up to seven letters and digits."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 8 else ""


def read_deb(deb: Path, folder: UnpackFolder, select: NameFilter) -> list[Source]:
    """Unpack the regular files of a package whose names are selected; a hard link counts as the file that it links to.

    Returns:
        The files in an order that does not depend on the package's: a folder's files before its folders, by name.

    Raises:
        ArchiveError: The file is no .deb or broken, or exceeds a limit of `UnpackFolder`.
    """
    sources: dict[str, Source] = {}
    with _open_files(deb) as tar:
        for member in tar:
            name = member.name.removeprefix("./").lstrip("/")
            if member.islnk():
                original = sources.get(member.linkname.removeprefix("./").lstrip("/"))
                if original and select(name):
                    sources[name] = Source(name, original.path, original.digest)
            elif member.isreg() and select(name):
                stream = tar.extractfile(member)
                assert stream is not None
                sources[name] = folder.store(name, stream)
    return sorted(sources.values(), key=lambda source: walk_order(source.name))


@contextlib.contextmanager
def _open_files(deb: Path) -> Iterator[tarfile.TarFile]:
    """Open the tar of a package's files as a stream; ArchiveError if dpkg-deb or tarfile finds the package broken."""
    if not shutil.which("dpkg-deb"):
        raise ArchiveError(f"{deb.name}: no dpkg-deb on this machine; install Debian's package dpkg")
    failure: Exception | None = None
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with tempfile.TemporaryFile() as messages:
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages) as process:
                assert process.stdout is not None
                with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                    yield tar
                while process.stdout.read(COPY_BYTES):  # the padding, without which dpkg-deb fails
                    pass
            status = process.returncode
        except (tarfile.TarError, OSError) as error:
            failure, status = error, 1
        if status:
            messages.seek(0)
            reason = " ".join(messages.read().decode(errors="replace").split()) or failure
            raise ArchiveError(f"{deb.name}: not a whole Debian package ({reason})") from failure


def walk_order(name: str) -> list[tuple[bool, str]]:
    """Sort key of names that puts a folder's files before its folders."""
    *folders, last = name.split("/")
    return [*((True, folder) for folder in folders), (False, last)]

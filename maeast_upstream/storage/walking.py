"""Lists the files of a folder at any depth, local or at an address, and says what is left out.

Hidden files and folders, whose names begin with a dot, are left out: among them are the ``._x.wav`` in which macOS
stores what other file systems cannot hold of ``x.wav``. A local folder that a link leads to is listed once, whichever
links lead there.
"""

import contextlib
import logging
import os
from collections import Counter, deque
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from maeast_upstream.display import as_text, printable, without_secrets
from maeast_upstream.storage.remote import resolve

logger = logging.getLogger(__name__)

Identity = tuple[int, int]
"""Device and number of a folder, the same for each of its names."""


class Entry(NamedTuple):
    """A file or folder below the folder that is listed."""

    path: str
    """Its path or address."""
    kind: Literal[
        "file", "folder", "hidden file", "hidden folder", "linked folder", "broken link", "device", "unreadable folder"
    ]
    """A folder comes before its content; what follows it in this list is left out."""
    size: int | None = None
    """Number of bytes, where the listing knows it."""
    reason: str = ""
    """Why a folder cannot be read."""


def identity_of(folder: str) -> Identity:
    """Return what a folder has in common with all links to it; raise OSError if it cannot be reached."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def walk(
    folder: str, seen: set[Identity], excluded: Collection[str] = (), excluded_folders: Container[Identity] = ()
) -> Iterator[Entry]:
    """List a local folder lazily: sorted by name in each folder, and then the folders that links in it lead to.

    A link to a folder around the one that it is found in, such as ``..`` or ``/``, is not followed.

    Args:
        folder: The folder; ``.`` does not become part of the paths.
        seen: The folders that are listed already, which are not listed again; those of this walk are added.
        excluded: Absolute paths of files that are passed over.
        excluded_folders: Folders below ``folder`` that are passed over.
    """
    links = deque([Entry(folder, "folder")])
    around: set[Identity] = set()
    while links:
        top = links.popleft()
        around |= _folders_around(top.path)
        stack: list[Iterator[Entry]] = [iter([top])]  # instead of recursion, whose depth is limited
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
            elif entry.kind not in ("folder", "linked folder"):
                yield entry
            else:
                try:
                    identity = identity_of(entry.path)
                    if entry.kind == "linked folder":
                        if identity in around - seen:
                            yield entry
                        else:
                            links.append(entry._replace(kind="folder"))
                        continue
                    if identity in seen or (identity in excluded_folders and entry.path != folder):
                        continue
                    seen.add(identity)
                    found = _names(entry.path)
                except OSError as error:
                    yield entry._replace(kind="unreadable folder", reason=error.strerror or str(error))
                    continue
                yield entry
                stack.append(_entries(entry.path, found, excluded))


def _folders_around(folder: str) -> set[Identity]:
    found = set()
    for parent in Path(os.path.realpath(folder)).parents:
        with contextlib.suppress(OSError):
            found.add(identity_of(str(parent)))
    return found


def _names(folder: str) -> list[tuple[str, bool, bool]]:
    """Return the sorted names in a folder, and for each whether it is a folder and whether it is a link."""
    with os.scandir(folder) as scanned:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in scanned)


def _entries(folder: str, found: list[tuple[str, bool, bool]], excluded: Collection[str]) -> Iterator[Entry]:
    """Yield the entries of these names; folders and links to folders are not opened."""
    prefix = "" if folder == "." else folder
    for name, is_folder, is_link in found:
        path = os.path.join(prefix, name)
        leads_to_folder = is_link and os.path.isdir(path)
        if name.startswith("."):
            yield Entry(path, "hidden folder" if is_folder or leads_to_folder else "hidden file")
        elif is_folder or leads_to_folder:
            yield Entry(path, "folder" if is_folder else "linked folder")
        elif not (excluded and os.path.abspath(path) in excluded):
            yield Entry(path, "broken link" if is_link and not os.path.exists(path) else "file")


def walk_remote(url: str) -> Iterator[Entry]:
    """List a folder at an address, sorted by name within each folder; links to folders are not followed.

    Raises:
        OSError, ValueError: It cannot be listed to its end.
    """
    system, path = resolve(url)
    for found in sorted(system.ls(path, detail=True), key=lambda found: str(found["name"])):
        name, is_folder = str(found["name"]).rstrip("/"), found["type"] == "directory"
        address = system.unstrip_protocol(found["name"])
        if name == path.rstrip("/"):  # some protocols list the folder itself, too
            continue
        if name.rpartition("/")[2].startswith("."):
            yield Entry(address, "hidden folder" if is_folder else "hidden file")
        elif is_folder:
            yield from walk_remote(address)
        elif found.get("islink") and os.path.isdir(name):
            yield Entry(address, "linked folder")
        else:
            yield Entry(address, "file", int(found.get("size") or 0))


class LeftOut:
    """Counts what a listing leaves out, and names the first of each kind in one line."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, entry: Entry) -> None:
        """Count an entry that is left out."""
        self._counts[entry.kind] += 1
        self._first.setdefault(entry.kind, printable(without_secrets(as_text(entry.path))))

    def __str__(self) -> str:
        """Return the line; empty if nothing was left out."""
        parts = [
            f"{count} {kind}{'s' if count > 1 else ''} ({'the first: ' if count > 1 else ''}{self._first[kind]})"
            for kind, count in self._counts.items()
        ]
        return f"left out: {', '.join(parts)}" if parts else ""

    def log(self) -> None:
        """Log the line, if there was anything."""
        if text := str(self):
            logger.warning("%s", text)

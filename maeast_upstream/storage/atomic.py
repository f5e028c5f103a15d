"""Files and folders that appear whole or not at all: each is written beside its final name and then renamed.

A process that is killed while it writes leaves a hidden part, ``.NAME.XXXXXXXX.part``, and whatever had the final name
before. The next process that writes the same name deletes it: a process holds a lock on its part while it lives.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

MAX_NAME_BYTES = 200
"""Longest name that is part of the names of its temporary files; file systems allow 255 bytes."""
PART_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.part(\..*)?", re.DOTALL)
TRIES = 10


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes the file ``path`` when the body ends without an error.

    The content is on the disk before it gets its final name. If the body fails, the temporary file is removed and an
    earlier ``path`` stays as it was. The temporary path keeps the suffix, because some libraries choose a format by it.

    Raises:
        ValueError: The parent folder does not exist, or ``path`` is a folder.
    """
    refuse_unwritable(path)
    _remove_dead(path, _parts_at_first(path.parent))
    part, lock = _new_part(path, is_folder=False)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which becomes the folder ``path`` when the body ends without an error.

    An earlier ``path`` is removed only then. If the body fails, the new folder is removed and the earlier one stays. If
    the process is killed between the two renames, `restore_folder` (or the next call for the same path) recovers the
    earlier folder.

    Raises:
        ValueError: The parent folder does not exist, or ``path`` is a file.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder to make {path.name} in")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: a file; expected the name of a folder")
    restore_folder(path)
    _remove_dead(path, _parts_at_first(path.parent))
    part, lock = _new_part(path, is_folder=True)
    try:
        yield part
        if path.exists():
            os.replace(path, _old(path))
        os.replace(part, path)
    finally:
        restore_folder(path)
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def restore_folder(path: Path) -> None:
    """Finish a replacement that a kill interrupted: ``path`` is then the new folder, or else the earlier one."""
    old = _old(path)
    if old.is_symlink():
        raise ValueError(f"{old}: a link, where an earlier {path.name} is kept for a moment; remove it")
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Delete the parts that killed processes left beside ``path``, but not those of processes that live."""
    _remove_dead(path, _parts_in(path.parent))


def _remove_dead(path: Path, parts: Collection[str]) -> None:
    import fcntl

    for part in (path.parent / name for name in parts if name.startswith(f"{_prefix(path)}.")):
        with contextlib.suppress(OSError):  # it is gone, is locked, or is a link
            descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink()
            finally:
                os.close(descriptor)


def _parts_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in folder.iterdir() if PART_NAME.fullmatch(entry.name))
    except OSError:
        return frozenset()


_parts_at_first = functools.lru_cache(maxsize=256)(_parts_in)
"""The parts in a folder when this process first wrote to it: to list it for every file would take long for many."""


def refuse_unwritable(path: Path) -> None:
    """Raise ValueError if ``path`` cannot be the name of a new file; call it before long work, too."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder to write {path.name} to")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected the name of a file to write")


def refuse_to_replace_inputs(written: Iterable[Path], read: Iterable[Path]) -> None:
    """Raise ValueError if a file that is about to be written is one of those that are read; call it before the work.

    A folder may be read as a table, of which each parquet file is a part: none may be written there.
    """
    inputs = set(map(os.path.realpath, read))
    folders = {Path(path) for path in inputs if Path(path).is_dir()}
    for path in written:
        real = os.path.realpath(path)
        if real in inputs:
            raise ValueError(f"{path}: an input, and an output of this run; give another -o")
        if path.suffix == ".parquet" and not folders.isdisjoint(Path(real).parents):
            raise ValueError(f"{path}: in a folder that is an input, where it would be read as a part; give another -o")


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """Raise ValueError if ``path`` exists and ``force`` is not given."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; give --force to replace it, or another name")


def _new_part(path: Path, *, is_folder: bool) -> tuple[Path, int]:
    """Make and lock a temporary file or folder beside ``path``, never through a link that has its name already.

    Returns:
        Its path, and the descriptor that holds the lock, which children do not inherit.

    Raises:
        OSError: It cannot be made.
    """
    import fcntl

    for _ in range(TRIES):
        part = path.with_name(f"{_prefix(path)}.{uuid.uuid4().hex[:8]}.part{path.suffix[:20]}")
        flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            if is_folder:
                part.mkdir()
            descriptor = os.open(part, flags | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            continue
        with contextlib.suppress(OSError):  # another process is deleting it as a leftover, or the system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return part, descriptor
        os.close(descriptor)
    raise OSError(errno.EAGAIN, "other files have the names of its unfinished ones", str(path))


def _prefix(path: Path) -> str:
    """The beginning of the names of a file's parts; short enough that there is room for their ends."""
    if len(os.fsencode(path.name)) <= MAX_NAME_BYTES:
        return f".{path.name}"
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}"


def _old(path: Path) -> Path:
    return path.with_name(f"{_prefix(path)}.old")

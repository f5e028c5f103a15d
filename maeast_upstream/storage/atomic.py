"""Files and folders that appear whole or not at all: each is written beside its final name and then renamed.

A process that is killed while it writes leaves a hidden part, ``.NAME.XXXXXXXX.part``, and whatever had the final name
before. `remove_leftovers` deletes such parts.
"""

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which becomes the file ``path`` when the body ends without an error.

    The content is on the disk before it gets its final name. If the body fails, the temporary file is removed and an
    earlier ``path`` stays as it was. The temporary path keeps the suffix, because some libraries choose a format by it.

    Raises:
        ValueError: The parent folder does not exist, or ``path`` is a folder.
    """
    refuse_unwritable(path)
    part = _part(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
    part = _part(path)
    part.mkdir()
    try:
        yield part
        if path.exists():
            os.replace(path, _old(path))
        os.replace(part, path)
    finally:
        restore_folder(path)
        shutil.rmtree(part, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Finish a replacement that a kill interrupted: ``path`` is then the new folder, or else the earlier one."""
    old = _old(path)
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Delete the parts that killed processes left beside ``path``.

    Call it only where no other process can be writing ``path``, for example while a lock is held.
    """
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def refuse_unwritable(path: Path) -> None:
    """Raise ValueError if ``path`` cannot be the name of a new file; call it before long work, too."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder to write {path.name} to")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected the name of a file to write")


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """Raise ValueError if ``path`` exists and ``force`` is not given."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; give --force to replace it, or another name")


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")

"""Outputs appear whole or not at all: written beside their final name, then renamed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; renamed to ``path`` at the end, removed if the body fails.

    Raises:
        ValueError: the folder does not exist, or ``path`` is a folder.
    """
    refuse_no_file(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def refuse_no_file(path: Path) -> None:
    """ValueError if no file ``path`` can be written: to be asked before long work, too."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder to write {path.name} to")
    if path.is_dir():
        raise ValueError(f"{path}: a folder; expected the name of a file to write")


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """ValueError if ``path`` exists and ``force`` is not given."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; give --force to replace it, or another name")

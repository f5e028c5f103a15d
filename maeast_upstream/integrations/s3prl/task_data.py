"""What the tasks of s3prl have in common: the clips of a task, and the files and folders that a config names.

A ValueError for missing or wrong data names the file or the config's field.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maeast_upstream.storage.text import read_text

DATA = "downstream_expert.datarc"
LOADER = "downstream_expert.loaderrc"
CORPUS = "downstream_expert.corpus"
MAX_LIST_BYTES = 1 << 28
"""Largest list of a corpus: those of SUPERB's are below 100 MB."""


@dataclass
class Clips:
    """The audio files of a task by split, and what the task requires of them."""

    train: list[Path]
    dev: list[Path] = field(default_factory=list)
    test: list[Path] = field(default_factory=list)
    noise: list[Path] = field(default_factory=list)
    """KS only: files of at least a second each."""
    rate: int | None = 16_000
    """Sample rate of the mono files that the task requires; None if it converts its input."""
    smallest_train: int = 1
    """With fewer training clips s3prl makes no step and loops for ever."""
    batched: dict[str, int] = field(default_factory=dict)
    """Clips of each split that s3prl puts into batches, where it leaves some out."""

    def digest(self) -> str:
        """12 hexadecimal digits of a hash over the splits and the names and sizes of their files."""
        listed = [
            [(str(path.absolute()), path.stat().st_size) for path in paths]
            for paths in (self.train, self.dev, self.test)
        ]
        return hashlib.sha256(repr(listed).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def value(config: Mapping[str, Any], name: str) -> Any:
    """The value of a config's field; KeyError if there is none.

    Args:
        config: nested mappings.
        name: the dotted name.
    """
    node: Any = config
    for part in name.split("."):
        if not isinstance(node, Mapping):
            raise KeyError(name)
        node = node[part]
    return node


def folder(config: Mapping[str, Any], name: str, *below: str) -> Path:
    """The existing folder that a field names, or one below it."""
    path = Path(str(value(config, name)), *below)
    if not path.is_dir():
        raise ValueError(f"{name}: no such folder: {path}; {remedy(name)}")
    return path


def file(config: Mapping[str, Any], name: str, *below: str) -> Path:
    """The existing file below the folder that a field names, or that file itself."""
    path = Path(str(value(config, name)), *below)
    if not path.is_file():
        raise ValueError(f"{name}: no such file: {path}; {remedy(name)}")
    return path


def remedy(name: str) -> str:
    """How the user changes a field, for a message."""
    return f"""set it in the YAML, or with -o "config.{name}='PATH'\""""


def lines(path: Path) -> list[list[str]]:
    """The lines of a text file that are not empty, split at white space."""
    return [line.split() for line in read_text(path, MAX_LIST_BYTES).splitlines() if line.strip()]


def existing(paths: Iterable[Path], listed_in: Path) -> list[Path]:
    """The same paths; ValueError if one of them is no file."""
    checked = list(paths)
    for path in checked:
        if not path.is_file():
            raise ValueError(f"{path}: no such file, though {listed_in} lists it")
    return checked

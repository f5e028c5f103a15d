"""The rows of a table of embeddings without their vectors: which part of which file each one describes."""

import functools
import os
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.display import from_name
from maeast_upstream.storage.remote import is_remote


class Clips:
    """Where the clips of a table lie; those of one file share a recording, whatever the file is called."""

    def __init__(self, folder: str = ".") -> None:
        """Begin without any row; ``folder`` is where relative paths start."""
        self.folder = folder
        self.names: list[str] = []
        """The different paths of the table, as they stand in it."""
        self.recordings: list[str] = []
        """The different files that they lead to."""
        self._folder = os.path.abspath(folder)  # noqa: PTH100
        self._real_folder = functools.lru_cache(maxsize=4096)(os.path.realpath)
        self._name_numbers: dict[str, int] = {}
        self._recording_numbers: dict[str, int] = {}
        self._recording_of: list[int] = []
        self._columns: list[tuple[np.ndarray, ...]] = []

    def reading(self, blocks: Iterable[Embeddings]) -> Iterator[np.ndarray]:
        """Add consecutive rows, and yield the vectors of each block."""
        for block in blocks:
            names = np.array([self._number(name) for name in block.paths], np.int64)
            ends = np.where(np.isnan(block.end_ms), np.inf, block.end_ms)
            self._columns.append((names, block.segments, block.start_ms, ends))
            yield block.vectors

    def _number(self, name: str) -> int:
        number = self._name_numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
            target = self._target(name)
            recording = self._recording_numbers.setdefault(target, len(self.recordings))
            self._recording_of.append(recording)
            if recording == len(self.recordings):
                self.recordings.append(target)
        return number

    def _target(self, name: str) -> str:
        """Return the file that a path leads to, without links and ``..``; an address as it is."""
        if is_remote(name) or "\0" in name:
            return name
        parent, last = os.path.split(os.path.join(self._folder, from_name(name)))  # noqa: PTH118
        path = os.path.join(self._real_folder(parent), last)  # noqa: PTH118
        return os.path.realpath(path) if last in ("", ".", "..") or os.path.islink(path) else path  # noqa: PTH114

    @cached_property
    def name(self) -> np.ndarray:
        """(rows,) index of each row's path in `names`."""
        return self._column(0)

    @cached_property
    def segment(self) -> np.ndarray:
        """(rows,) as in the table."""
        return self._column(1)

    @cached_property
    def start_ms(self) -> np.ndarray:
        """(rows,) where each clip begins."""
        return self._column(2)

    @cached_property
    def end_ms(self) -> np.ndarray:
        """(rows,) where each clip ends; infinite for the end of the file."""
        return self._column(3)

    @cached_property
    def recording(self) -> np.ndarray:
        """(rows,) index of each row's file in `recordings`."""
        numbers: np.ndarray = np.array(self._recording_of, np.int64)[self.name]
        return numbers

    def _column(self, number: int) -> np.ndarray:
        column: np.ndarray = np.concatenate([columns[number] for columns in self._columns])
        return column

    def overlap(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return (pairs,) bool: whether the clips of two arrays of rows are overlapping parts of one recording."""
        same = np.asarray(self.recording[rows] == self.recording[others])
        if same.any():
            same &= (self.start_ms[rows] < self.end_ms[others]) & (self.start_ms[others] < self.end_ms[rows])
        return same

    def parts(self, recording: np.ndarray) -> np.ndarray:
        """Number the clips: equal numbers for the same times of the same of ``recording``, (rows,) whole numbers."""
        keys = np.stack([recording.astype(np.float64), self.start_ms, self.end_ms], axis=1)
        numbers: np.ndarray = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        return numbers

    def shown(self, row: int) -> str:
        """Return a clip's path, with its times in seconds if it is one of several parts of its file."""
        path = str(self.names[self.name[row]])
        start, end = self.start_ms[row] / 1000, self.end_ms[row] / 1000
        if self.recording_sizes[self.recording[row]] == 1 and not start:
            return path
        return f"{path} {start:.2f}-{f'{end:.2f}' if np.isfinite(end) else 'end'} s"

    @cached_property
    def recording_sizes(self) -> np.ndarray:
        """(recordings,) number of rows of each."""
        return np.bincount(self.recording)

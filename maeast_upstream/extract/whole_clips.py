"""Keeps the windows of a clip back until the last one has come, because the clip may turn out to be broken."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

from maeast_upstream.extract.pipeline import FailedInput
from maeast_upstream.extract.table import Embedded

MEMORY_BYTES = 64 << 20
"""Vectors of windows that take more than this lie in a temporary file."""

Outcome = Embedded | FailedInput


def only_whole(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield the outcomes of clips that were read to their end; of another one, only that it failed.

    Raises:
        OSError: There is no space for the temporary file.
    """
    held = _Held()
    for outcome in outcomes:
        if not outcome.is_last:
            held.add(outcome)
            continue
        is_broken = isinstance(outcome, FailedInput) and not outcome.is_window
        if not is_broken:
            yield from held.outcomes()
        held = _Held()
        yield outcome


class _Held:
    """Windows in their order."""

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []
        self._bytes = self._written = 0
        self._file: IO[bytes] | None = None

    def add(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._bytes += outcome.vectors.nbytes if isinstance(outcome, Embedded) else len(outcome.reason)
        if self._bytes > MEMORY_BYTES:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115  # closed with this object
            for each in self._outcomes:
                pickle.dump(each, self._file, pickle.HIGHEST_PROTOCOL)
            self._written += len(self._outcomes)
            self._outcomes, self._bytes = [], 0

    def outcomes(self) -> Iterator[Outcome]:
        if self._file:
            self._file.seek(0)
            for _ in range(self._written):
                outcome: Outcome = pickle.load(self._file)  # only `add` writes it
                yield outcome
        yield from self._outcomes

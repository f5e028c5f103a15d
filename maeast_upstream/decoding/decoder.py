"""What a decoder of batches of segments does, what a file may cost it, and the one that works in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from maeast_upstream.audio.constants import MAX_HOURS, SAMPLE_RATE
from maeast_upstream.audio.reading import TOLERANCE_SAMPLES
from maeast_upstream.data.inputs import Segment, file_bytes
from maeast_upstream.decoding import stream
from maeast_upstream.decoding.protocol import Answer
from maeast_upstream.decoding.worker import MEMORY_BYTES, attempt

LIMIT_SECONDS, LIMIT_SECONDS_PER_MB = 60.0, 2.0
"""Time limit of a file and its extension per MB: far more than a decoder needs, for slow disks and busy machines."""


@dataclass(frozen=True)
class Limits:
    """What a file may cost."""

    seconds: float = LIMIT_SECONDS
    """Time limit of a file."""
    seconds_per_mb: float = LIMIT_SECONDS_PER_MB
    """Extension of the time limit for each MB of the file."""
    max_hours: float = MAX_HOURS
    """Length of its audio."""
    memory_bytes: int = MEMORY_BYTES
    """Memory of a decoding process."""

    def seconds_of(self, segment: Segment) -> float:
        """Return the time limit of a segment; decoding may be as slow as the longest audio, but no slower."""
        extended = self.seconds + self.seconds_per_mb * file_bytes(segment) / 1e6
        return min(extended, max(self.seconds, 3600 * self.max_hours))

    @property
    def blocks(self) -> float:
        """The most full blocks of a file."""
        return (3600 * self.max_hours * SAMPLE_RATE + TOLERANCE_SAMPLES) / stream.BLOCK_SAMPLES


Room = Callable[[int], bool]
"""Waits until what comes next of a segment of the batch may be delivered; returns False if the run has ended."""
Deliver = Callable[[int, "Answer | np.ndarray"], None]
"""Delivers a block of a segment of the batch, or the answer, which comes last."""


class Decoder(Protocol):
    """Decodes batches one after the other, on calls from one thread."""

    def begin(self) -> None:
        """Begin a new run."""

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order."""

    def tick(self, seconds: float) -> None:
        """Note that ``seconds`` have passed; called from another thread."""

    def interrupt(self) -> None:
        """Stop decoding for this run; called from another thread."""

    def close(self) -> None:
        """Release everything; the last call."""


class InProcessDecoder:
    """Decodes in this process, without limits of time and memory; a crash of a decoder ends the program."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def begin(self) -> None:
        """Do nothing."""

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order."""
        for index, segment in enumerate(batch):

            def send(block: np.ndarray, index: int = index) -> None:
                if not room(index):
                    raise stream.Stopped
                deliver(index, block)

            if not room(index):
                return
            try:
                answer = attempt(segment, stream.BlockJoin(segment.path, self._limits.max_hours, send))
            except stream.Stopped:
                return
            deliver(index, answer)

    def tick(self, seconds: float) -> None:
        """Do nothing."""

    def interrupt(self) -> None:
        """Do nothing: the current file is decoded to its next block or its end."""

    def close(self) -> None:
        """Do nothing."""

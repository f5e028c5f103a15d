"""Long audio block by block, between the decoder that gives it and the reader that gets it."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, DecodedAudio, within_hours
from maeast_upstream.data.segment import Segment
from maeast_upstream.decoding.bounded import BoundedJoin

Whole = np.ndarray | AudioError
"""(S,) samples at 16 kHz, or why there are none."""

BLOCK_SAMPLES = 60 * SAMPLE_RATE
"""Samples of a block, 3.8 MB; what is not longer comes whole."""


class Stopped(BaseException):  # as GeneratorExit: no failure of the file, which decoders would report
    """Nobody reads what is being decoded any more."""


class BlockJoin:
    """A `Join` that sends all full blocks on and returns the samples after them, at least one if there are any.

    Called again, because another decoder begins with the same audio, it leaves out as many blocks as it has sent.
    """

    def __init__(self, name: str, max_hours: float, send: Callable[[np.ndarray], None]) -> None:
        """Begin with a segment.

        Args:
            name: Of the audio, for messages.
            max_hours: Limit of its length.
            send: Called with each (BLOCK_SAMPLES,) float32 block.
        """
        self.name, self.max_hours = name, max_hours
        self._send = send
        self._sent = 0

    def __call__(self, blocks: Iterator[np.ndarray]) -> np.ndarray:
        """Send (n,) blocks of any length on.

        Raises:
            TooLongError: There are more samples than the limit.
            AudioError: There are fewer than were sent before.
        """
        held, samples, number = [np.empty(0, np.float32)], 0, 0
        for block in within_hours(blocks, self.max_hours, self.name):
            held.append(block)
            samples += len(block)
            while samples > BLOCK_SAMPLES:
                joined = np.concatenate(held)
                if number == self._sent:
                    self._send(joined[:BLOCK_SAMPLES])
                    self._sent += 1
                held, number = [joined[BLOCK_SAMPLES:]], number + 1
                samples -= BLOCK_SAMPLES
        if number < self._sent:
            raise AudioError(f"{self.name}: changed while it was decoded")
        return np.concatenate(held)


class AudioStream:
    """The samples of long audio while they are decoded: iterate once over its (n,) float32 blocks.

    The iterator raises `AudioError` where the rest cannot be decoded.
    """

    def __init__(self, wait: Callable[["AudioStream"], np.ndarray | None]) -> None:
        """Begin without a block.

        Args:
            wait: Called by the reader; waits until the stream is ready, and calls `take` while nothing else is changed.
        """
        self._wait = wait
        self._blocks: deque[np.ndarray] = deque()
        self.waiting = 0
        """Samples that the reader has not taken yet."""
        self.notes: tuple[str, ...] = ()
        """What was noticed while the audio was decoded; complete at its end."""
        self.error: AudioError | None = None
        self.is_whole = False
        """Whether the last block, or an error, has come."""
        self._is_left = False

    @property
    def is_ready(self) -> bool:
        """Whether the reader need not wait."""
        return bool(self._blocks) or self.is_whole

    def add(self, part: np.ndarray | DecodedAudio | AudioError) -> None:
        """Add a block; or the last one with the notes, or the error in its place."""
        if isinstance(part, np.ndarray):
            block = part
        else:
            self.is_whole = True
            self.error = part if isinstance(part, AudioError) else None
            self.notes = part.notes if isinstance(part, DecodedAudio) else ()
            block = part.samples if isinstance(part, DecodedAudio) else np.empty(0, np.float32)
        if len(block) and not self._is_left:
            self._blocks.append(block)
            self.waiting += len(block)

    def take(self) -> np.ndarray | None:
        """Return the next block; None at the end.

        Raises:
            AudioError: The rest cannot be decoded, or nobody decodes it any more.
        """
        if self._blocks:
            block = self._blocks.popleft()
            self.waiting -= len(block)
            return block
        if not self.is_whole:
            raise AudioError("its decoding was stopped")
        if self.error:
            raise self.error
        return None

    def leave(self) -> None:
        """Forget the blocks that wait, and those to come."""
        self._is_left = True
        self._blocks.clear()
        self.waiting = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        while (block := self._wait(self)) is not None:
            yield block


def join_stream(segment: Segment, stream: AudioStream) -> tuple[Segment, Whole]:
    """Read a stream to its end: the segment with all its notes, and the samples or the error of `DecodePool.decode`."""
    join = BoundedJoin(segment.path, max_hours=math.inf)
    try:
        samples = join(iter(stream))
    except AudioError as error:
        return segment, AudioError(str(error))
    finally:
        join.close()
    return replace(segment, notes=segment.notes + stream.notes), samples

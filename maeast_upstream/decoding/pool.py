"""Decoding ahead of the model, in processes of their own: whatever a file does to its decoder costs that file only."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment, cost
from maeast_upstream.data.packed import SAMPLE_BYTES
from maeast_upstream.decoding.process import Decoder, InProcessDecoder, Result, SubprocessDecoder

AHEAD_SECONDS = 600.0
"""Audio that is decoded ahead of the model: what bounds memory."""
LIMIT_SECONDS, LIMIT_SECONDS_PER_MB = 60.0, 2.0
"""How long a file may take: what a slow disk and a busy machine need, far more than a decoder does."""
TICK_SECONDS = 0.25
SEGMENTS_AHEAD = 4096
"""Segments known ahead of the model, decoded or not."""
BATCH_SEGMENTS, BATCH_BYTES = 16, 2 << 20
"""What a process is asked for at once: small files so that it need not wait for the next request, large ones alone,
so that the others have something to do."""
UNKNOWN_BYTES = BATCH_BYTES // 4
"""What a segment of unknown length counts for there."""


class DecodePool:
    """Processes that decode; a context manager.

    Args:
        workers: processes; 0 to decode in a thread of this one, without time limit, where a crash ends everything.
        ahead_seconds: decoded audio that may wait for its reader, and one file for each process more.
        limit_seconds: how long a file may take,
        limit_seconds_per_mb: and how much longer for each MB of it.
    """

    def __init__(
        self,
        workers: int,
        *,
        ahead_seconds: float = AHEAD_SECONDS,
        limit_seconds: float = LIMIT_SECONDS,
        limit_seconds_per_mb: float = LIMIT_SECONDS_PER_MB,
    ) -> None:
        if workers < 0 or not ahead_seconds > 0 or not limit_seconds > 0:
            raise ValueError(
                "expected workers from 0, ahead_seconds and limit_seconds above 0, "
                f"got {workers}, {ahead_seconds} and {limit_seconds}"
            )
        self._ahead = ahead_seconds * SAMPLE_RATE
        self._decoders: list[Decoder] = [SubprocessDecoder(limit_seconds, limit_seconds_per_mb) for _ in range(workers)]
        self._decoders = self._decoders or [InProcessDecoder()]
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run:
            self._run.stop()
        for decoder in self._decoders:
            decoder.close()

    def decode(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, Result]]:
        """Decode in order, ahead of the reader; ``segments`` is read in another thread.

        Yields:
            Each segment with its samples at 16 kHz, (S,) float32, or of packed audio the (S,) int16 of the memory map
            (`packed.to_float`); or with the `AudioError` that says why there are none.

        Raises:
            RuntimeError: a process could not be started, or another `decode` of this pool is not at its end.
            Whatever ``segments`` raises, after the results of what it gave before.
        """
        if self._run:
            raise RuntimeError("one decode() at a time: read the one before to its end, or close it")
        self._run = _Run(segments, self._decoders, self._ahead)
        try:
            yield from self._run.results()
        finally:
            self._run.stop()
            self._run = None


@dataclass(eq=False, slots=True)
class _Slot:
    """A place in the order of the results."""

    segment: Segment
    cost: int
    result: Result | None = None


class _Run:
    """One `decode`: a thread that lists the segments, and for each decoder one that feeds it and takes its answers."""

    def __init__(self, segments: Iterable[Segment], decoders: list[Decoder], ahead: float) -> None:
        self._segments, self._decoders, self._ahead = segments, decoders, ahead
        self._order: deque[_Slot] = deque()
        self._waiting: deque[_Slot] = deque()
        self._samples = 0
        self._all_listed = self._stopped = False
        self._list_fault: BaseException | None = None
        self._decoder_fault: BaseException | None = None
        lock = threading.Lock()
        self._ready, self._work, self._space = (threading.Condition(lock) for _ in range(3))
        self._ended = threading.Event()
        for decoder in decoders:
            decoder.begin()
        self._lister = threading.Thread(target=self._list, daemon=True)
        self._threads = [threading.Thread(target=self._serve, args=(decoder,), daemon=True) for decoder in decoders]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        for thread in (self._lister, *self._threads):
            thread.start()

    def results(self) -> Iterator[tuple[Segment, Result]]:
        """In the order of the segments."""
        while True:
            with self._ready:
                self._ready.wait_for(self._is_ready)
                if self._decoder_fault:
                    raise self._decoder_fault
                if self._stopped or not self._order:
                    break
                slot = self._order.popleft()
                self._samples -= _size(slot.result)
                self._space.notify_all()
            assert slot.result is not None
            yield slot.segment, slot.result
        if self._list_fault:
            raise self._list_fault

    def stop(self) -> None:
        """End all threads; processes in the middle of a file are killed."""
        with self._ready:
            self._stopped = True
            for condition in (self._ready, self._work, self._space):
                condition.notify_all()
        self._ended.set()
        for decoder in self._decoders:
            decoder.interrupt()
        for thread in self._threads:  # not the lister, which may wait for stdin; it ends with its next segment
            thread.join()

    def _is_ready(self) -> bool:
        if self._stopped or self._decoder_fault:
            return True
        return self._order[0].result is not None if self._order else self._all_listed

    def _list(self) -> None:
        try:
            for segment in self._segments:
                slot = _Slot(segment, cost(segment) or UNKNOWN_BYTES, _at_once(segment))
                with self._space:
                    self._space.wait_for(lambda: self._stopped or len(self._order) < SEGMENTS_AHEAD)
                    if self._stopped:
                        return
                    self._add(slot)
        except BaseException as error:  # raised where the results are read
            self._list_fault = error
        with self._ready:
            self._all_listed = True
            self._ready.notify()
            self._work.notify_all()

    def _add(self, slot: _Slot) -> None:
        self._order.append(slot)
        if slot.result is None:
            self._waiting.append(slot)
            self._work.notify()
        elif slot is self._order[0]:
            self._ready.notify()

    def _serve(self, decoder: Decoder) -> None:
        try:
            while batch := self._take():
                decoder.decode(
                    [slot.segment for slot in batch],
                    self._room(batch),
                    self._deliver(batch),
                )
        except BaseException as error:  # not the fault of a file; raised where the results are read
            with self._ready:
                self._decoder_fault = error
                self._ready.notify()

    def _take(self) -> list[_Slot]:
        """What one decoder is asked for next; nothing at the end."""
        with self._work:
            self._work.wait_for(lambda: self._stopped or self._waiting or self._all_listed)
            batch: list[_Slot] = []
            share = min(BATCH_SEGMENTS, 1 + len(self._waiting) // len(self._decoders))
            budget = BATCH_BYTES
            while self._waiting and not self._stopped and len(batch) < share:
                budget -= self._waiting[0].cost
                if batch and budget < 0:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _room(self, batch: list[_Slot]) -> Callable[[int], bool]:
        """Waits until there is room for a slot's samples, or the reader waits for just these."""

        def wait(index: int) -> bool:
            with self._space:
                self._space.wait_for(
                    lambda: self._stopped or self._samples < self._ahead or self._order[0] is batch[index]
                )
                return not self._stopped

        return wait

    def _deliver(self, batch: list[_Slot]) -> Callable[[int, Result], None]:
        def deliver(index: int, result: Result) -> None:
            with self._ready:
                batch[index].result = result
                self._samples += _size(result)
                if self._order and self._order[0] is batch[index]:
                    self._ready.notify()

        return deliver

    def _watch(self) -> None:
        """Counts ticks instead of reading a clock: a run that was stopped by Ctrl-Z has not used its time."""
        while not self._ended.wait(TICK_SECONDS):
            for decoder in self._decoders:
                decoder.tick(TICK_SECONDS)


def _size(result: Result | None) -> int:
    return len(result) if isinstance(result, np.ndarray) and not isinstance(result, np.memmap) else 0


def _at_once(segment: Segment) -> Result | None:
    """The result of what needs no decoding."""
    if segment.error is not None:
        return AudioError(segment.error)
    return _packed_clip(segment) if segment.packed else None


def _packed_clip(segment: Segment) -> Result:
    offset, size = segment.offset or 0, segment.size or 0
    try:
        samples: np.ndarray = _mapped(segment.file)[offset // SAMPLE_BYTES : (offset + size) // SAMPLE_BYTES]
    except (OSError, ValueError) as error:
        return AudioError(f"{segment.path}: {segment.file} cannot be read ({error})")
    if not size or len(samples) * SAMPLE_BYTES != size:
        return AudioError(f"{segment.path}: {len(samples)} samples in {segment.file}, expected {size // SAMPLE_BYTES}")
    return samples


@lru_cache(maxsize=16)
def _mapped(path: str) -> np.ndarray:
    return np.memmap(path, dtype=np.int16, mode="r")

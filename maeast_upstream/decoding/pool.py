"""Processes that decode ahead of the model; a file that crashes or blocks its decoder costs that file only."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np

from maeast_upstream.audio.constants import MAX_HOURS, SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment, cost
from maeast_upstream.data.packed import SAMPLE_BYTES
from maeast_upstream.decoding.decoder import (
    LIMIT_SECONDS,
    LIMIT_SECONDS_PER_MB,
    Decoder,
    Deliver,
    InProcessDecoder,
    Limits,
    Room,
)
from maeast_upstream.decoding.process import SubprocessDecoder
from maeast_upstream.decoding.protocol import Answer
from maeast_upstream.decoding.stream import AudioStream, Whole, join_stream
from maeast_upstream.decoding.worker import MEMORY_BYTES

AHEAD_SECONDS = 600.0
"""Audio that is decoded ahead of the model; it bounds memory."""
PARALLEL_SECONDS = 3600.0
"""Audio of a long file, 230 MB, that a process may decode before the reader comes to that file, where there are several
processes."""
TICK_SECONDS = 0.25
"""Interval at which time limits are checked."""
SEGMENTS_AHEAD = 4096
"""Segments that are listed ahead of the model, decoded or not."""
BATCH_SEGMENTS, BATCH_BYTES = 16, 2 << 20
"""Limits of one request to a process: several small files, so that it need not wait for the next request, but large
ones alone, so that the other processes have work, too."""
UNKNOWN_SIZE_BYTES = BATCH_BYTES // 4
"""Assumed size of a segment whose size is not known."""

Result = Whole | AudioStream


class DecodePool:
    """A context manager that holds processes for decoding.

    Args:
        workers: Number of processes; 0 to decode in a thread of this process, without limits of time and memory, where
            a crash of a decoder ends the program.
        ahead_seconds: Decoded audio that may wait for the reader, besides the files that come after the one that is
            read: one per process, or an hour of it.
        limit_seconds: Time limit of a file.
        limit_seconds_per_mb: Extension of the time limit for each MB of the file.
        max_hours: Limit of the audio of a file.
        memory_bytes: Limit of the memory of a process, on Linux.
    """

    def __init__(
        self,
        workers: int,
        *,
        ahead_seconds: float = AHEAD_SECONDS,
        limit_seconds: float = LIMIT_SECONDS,
        limit_seconds_per_mb: float = LIMIT_SECONDS_PER_MB,
        max_hours: float = MAX_HOURS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        if workers < 0 or not ahead_seconds > 0 or not limit_seconds > 0 or not max_hours > 0:
            raise ValueError(
                "expected workers from 0, ahead_seconds, limit_seconds and max_hours above 0; "
                f"got {workers}, {ahead_seconds}, {limit_seconds} and {max_hours}"
            )
        limits = Limits(limit_seconds, limit_seconds_per_mb, max_hours, memory_bytes)
        self._ahead = ahead_seconds * SAMPLE_RATE
        self._parallel = max(self._ahead, PARALLEL_SECONDS * SAMPLE_RATE) if workers > 1 else self._ahead
        self._decoders: list[Decoder] = [SubprocessDecoder(limits) for _ in range(workers)]
        self._decoders = self._decoders or [InProcessDecoder(limits)]
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run:
            self._run.stop()
        for decoder in self._decoders:
            decoder.close()

    def start(self, processes: int) -> None:
        """Start up to so many processes now, which `decode` would start when it needs them."""
        for decoder in self._decoders[:processes]:
            if isinstance(decoder, SubprocessDecoder):
                decoder.start()

    def decode(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, Whole]]:
        """Decode segments in their order, ahead of the reader; ``segments`` is iterated in another thread.

        What is longer than an hour needs 230 MB per hour in a temporary file.

        Yields:
            Each segment, with its samples at 16 kHz or the `AudioError` that tells why it cannot be decoded. Samples
            are (S,) float32, or for packed audio (S,) int16 of the memory map, see `packed.to_float`. What was noticed
            while it was decoded is added to the notes of the segment.

        Raises:
            RuntimeError: A process could not be started, or another run of this pool has not ended.
            Exception: Any error that ``segments`` raises, after the results of the segments before it.
        """
        for segment, result in self.stream(segments):
            yield join_stream(segment, result) if isinstance(result, AudioStream) else (segment, result)

    def stream(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, Result]]:
        """Do what `decode` does, but give audio of more than a minute as an `AudioStream` while it is decoded.

        What was noticed about it is in its notes. What is not read of a stream before the next segment is lost.
        """
        if self._run:
            raise RuntimeError("one decode() at a time: read the previous one to its end, or close it")
        self._run = _Run(segments, self._decoders, self._ahead, self._parallel)
        try:
            yield from self._run.results()
        finally:
            self._run.stop()
            self._run = None


@dataclass(eq=False, slots=True)
class _Slot:
    """A segment in the order of the results, with its result once there is one."""

    segment: Segment
    cost: int
    result: Result | None = None


class _Run:
    """One call of `stream`: a thread lists the segments, and one thread per decoder exchanges requests and results."""

    def __init__(
        self, segments: Iterable[Segment], decoders: list[Decoder], ahead: float, ahead_of_later: float
    ) -> None:
        self._segments, self._decoders = segments, decoders
        self._ahead, self._ahead_of_later = ahead, ahead_of_later
        self._order: deque[_Slot] = deque()
        self._waiting: deque[_Slot] = deque()
        self._samples = 0
        self._read: AudioStream | None = None
        self._all_listed = self._stopped = False
        self._list_error: BaseException | None = None
        self._decoder_error: BaseException | None = None
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
        """Yield the results in the order of the segments."""
        while True:
            with self._ready:
                self._ready.wait_for(self._is_ready)
                if self._decoder_error:
                    raise self._decoder_error
                if self._stopped or not self._order:
                    break
                slot = self._order.popleft()
                self._read = slot.result if isinstance(slot.result, AudioStream) else None
                self._samples -= _size(slot.result)
                self._space.notify_all()
            assert slot.result is not None
            yield slot.segment, slot.result
            if isinstance(slot.result, AudioStream):
                with self._space:
                    slot.result.leave()
                    self._read = None
                    self._space.notify_all()
        if self._list_error:
            raise self._list_error

    def stop(self) -> None:
        """End all threads, and kill the processes that are decoding."""
        with self._ready:
            self._stopped = True
            for condition in (self._ready, self._work, self._space):
                condition.notify_all()
        self._ended.set()
        for decoder in self._decoders:
            decoder.interrupt()
        for thread in self._threads:  # not the lister, which may be waiting for stdin and ends at its next segment
            thread.join()

    def _is_ready(self) -> bool:
        if self._stopped or self._decoder_error:
            return True
        return self._order[0].result is not None if self._order else self._all_listed

    def _list(self) -> None:
        try:
            for segment in self._segments:
                slot = _Slot(segment, cost(segment) or UNKNOWN_SIZE_BYTES, _result_without_decoding(segment))
                with self._space:
                    self._space.wait_for(lambda: self._stopped or len(self._order) < SEGMENTS_AHEAD)
                    if self._stopped:
                        return
                    self._add(slot)
        except BaseException as error:  # `results` raises it
            self._list_error = error
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
            while batch := self._next_batch():
                decoder.decode([slot.segment for slot in batch], self._wait_for_room(batch), self._deliver_to(batch))
        except BaseException as error:  # not caused by a file; `results` raises it
            with self._ready:
                self._decoder_error = error
                self._ready.notify()

    def _next_batch(self) -> list[_Slot]:
        """Return the segments of the next request to a decoder; none at the end."""
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

    def _wait_for_room(self, batch: list[_Slot]) -> Room:
        """Return a function that waits until there is room for a result, or the reader waits for this one."""

        def has_room(slot: _Slot) -> bool:
            is_first = bool(self._order) and self._order[0] is slot
            if not isinstance(slot.result, AudioStream):
                return self._samples < self._ahead or is_first
            is_read = slot.result is self._read or (is_first and self._read is None)
            return slot.result.waiting < (self._ahead if is_read else self._ahead_of_later)

        def wait(index: int) -> bool:
            with self._space:
                self._space.wait_for(lambda: self._stopped or has_room(batch[index]))
                return not self._stopped

        return wait

    def _take_block(self, stream: AudioStream) -> np.ndarray | None:
        """Wait for the next block of a stream and return it; None at its end."""
        with self._ready:
            self._ready.wait_for(lambda: stream.is_ready or self._stopped or self._decoder_error is not None)
            if self._decoder_error:
                raise self._decoder_error
            self._space.notify_all()
            return stream.take()

    def _deliver_to(self, batch: list[_Slot]) -> Deliver:
        def deliver(index: int, answer: Answer | np.ndarray) -> None:
            slot = batch[index]
            with self._ready:
                if isinstance(answer, np.ndarray) or isinstance(slot.result, AudioStream):
                    slot.result = slot.result or AudioStream(self._take_block)
                    assert isinstance(slot.result, AudioStream)
                    slot.result.add(answer)
                else:
                    notes = () if isinstance(answer, AudioError) else answer.notes
                    if notes:
                        slot.segment = replace(slot.segment, notes=slot.segment.notes + notes)
                    slot.result = answer if isinstance(answer, AudioError) else answer.samples
                    self._samples += _size(slot.result)
                self._ready.notify()

        return deliver

    def _watch(self) -> None:
        """Check the time limits by counting ticks, not by a clock, so that a pause by Ctrl-Z does not count."""
        while not self._ended.wait(TICK_SECONDS):
            for decoder in self._decoders:
                decoder.tick(TICK_SECONDS)


def _size(result: Result | None) -> int:
    return len(result) if isinstance(result, np.ndarray) and not isinstance(result, np.memmap) else 0


def needs_decoding(segment: Segment) -> bool:
    """Whether a process will be needed for a segment."""
    return segment.error is None and not segment.packed


def _result_without_decoding(segment: Segment) -> Result | None:
    """Return the result of a segment that needs no decoding, else None."""
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
        return AudioError(f"{segment.path}: {len(samples)} samples in {segment.file}; expected {size // SAMPLE_BYTES}")
    return samples


@lru_cache(maxsize=16)
def _mapped(path: str) -> np.ndarray:
    return np.memmap(path, dtype=np.int16, mode="r")

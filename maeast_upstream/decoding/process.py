"""Decoders of batches of segments: one in another process, whose death does no harm, and one in this process."""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Protocol

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, DecodedAudio
from maeast_upstream.data.inputs import Segment, file_bytes
from maeast_upstream.decoding.worker import ANSWER_HEADER, ERROR, READY, REQUEST_HEADER, attempt

START_SECONDS = 120.0
"""Time limit for a process to start and import its decoders; on an idle machine it takes less than one second."""
PIPE_BYTES = 1 << 20
"""Size of the pipes, the largest that Linux gives to any user; the default of 64 KiB is one second of samples."""
BOOT_CODE = "import sys; sys.path[:] = {path!r}; from maeast_upstream.decoding.worker import main; main()"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Each process has one thread, as there are as many processes as cores. glibc keeps the memory of a file for the next,
because returning it to the system and getting it back page by page takes as long as decoding a WAV."""

Answer = DecodedAudio | AudioError
Room = Callable[[int], bool]
"""Waits until the result of a segment of the batch may be delivered; returns False if the run has ended."""
Deliver = Callable[[int, Answer], None]
"""Delivers the answer to a segment of the batch."""


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
    """Decodes in this process, without a time limit; a crash of a decoder ends the program."""

    def begin(self) -> None:
        """Do nothing."""

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order."""
        for index, segment in enumerate(batch):
            if not room(index):
                return
            deliver(index, attempt(segment))

    def tick(self, seconds: float) -> None:
        """Do nothing."""

    def interrupt(self) -> None:
        """Do nothing: the current file is decoded to its end."""

    def close(self) -> None:
        """Do nothing."""


class SubprocessDecoder:
    """Decodes in another process, which is started when it is needed and replaced when it dies.

    The process is a fresh interpreter and not multiprocessing's, because a fork beside torch's threads may hang, and
    spawn would import the main module of the program, and torch with it.
    """

    def __init__(self, limit_seconds: float, limit_seconds_per_mb: float) -> None:
        self._limit, self._limit_per_mb = limit_seconds, limit_seconds_per_mb
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._remaining: float | None = None
        self._limit_of_file = 0.0
        self._late = self._busy = self._interrupted = False

    def begin(self) -> None:
        """Begin a new run."""
        self._interrupted = False

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order.

        Raises:
            RuntimeError: The process could not be started.
        """
        self._busy, done = True, 0
        while done < len(batch) and room(done):
            if self._process and self._process.poll() is not None:  # it died between two files, which no file caused
                self._reap()
            process = self._process or self._start()
            with contextlib.suppress(OSError):  # it died; `_receive` finds out
                _send(process, batch[done:])
            while done < len(batch):
                result = self._receive(process, batch[done], lambda: room(done))  # noqa: B023
                deliver(done, AudioError(f"{batch[done].path}: {self._reap()}") if result is None else result)
                done += 1
                if self._process is None:
                    break
        self._busy = False

    def tick(self, seconds: float) -> None:
        """Kill the process if the time limit of its file is over."""
        with self._lock:
            if self._remaining is None or self._process is None:
                return
            self._remaining -= seconds
            if self._remaining <= 0 and not self._late:
                self._late = True
                self._process.kill()

    def interrupt(self) -> None:
        """Kill the process if it is decoding."""
        with self._lock:
            self._interrupted = True
            if self._busy and self._process:
                self._process.kill()

    def close(self) -> None:
        """End the process, by closing its stdin."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def _start(self) -> "subprocess.Popen[bytes]":
        # imports use only the text entries, and only those can be written as literals
        path = [entry for entry in sys.path if isinstance(entry, str)]
        command = [sys.executable, "-c", BOOT_CODE.format(path=path)]
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": None if sys.stderr else subprocess.DEVNULL,  # if closed, the pipe would get its number
            "pipesize": PIPE_BYTES,
        }
        try:
            process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, **pipes)  # type: ignore[call-overload]
        except OSError as error:
            raise RuntimeError(f"a decoder process could not be started ({error}); try fewer workers, or 0") from error
        with self._lock:
            self._process = process
            if self._interrupted:
                process.kill()
        self._begin_clock(START_SECONDS)
        ready = _pipe(process.stdout).read(1)
        self._end_clock()
        if ready != READY and not self._interrupted:
            raise RuntimeError(f"a decoder process could not be started: {self._reap()}; its own message is above")
        started: subprocess.Popen[bytes] = process
        return started

    def _receive(
        self, process: "subprocess.Popen[bytes]", segment: Segment, wait_for_room: Callable[[], bool]
    ) -> Answer | None:
        """Return the answer to a segment, or None if the process died or was killed before its answer was complete."""
        stdout = _pipe(process.stdout)
        self._begin_clock(self._limit + self._limit_per_mb * file_bytes(segment) / 1e6)
        header = stdout.read(ANSWER_HEADER.size)
        if not self._end_clock() or len(header) < ANSWER_HEADER.size or not wait_for_room():
            return None
        answer_type, notes_size, size = ANSWER_HEADER.unpack(header)
        notes = _read_text(stdout, notes_size)
        if answer_type == ERROR:
            text = _read_text(stdout, size)
            return None if text is None else AudioError(text)
        try:
            samples = np.empty(size // 4, np.float32)
        except MemoryError:
            self._reap()
            hours = size / 4 / SAMPLE_RATE / 3600
            return AudioError(f"{segment.path}: {hours:.1f} hours of audio do not fit in memory; cut it into segments")
        if notes is None or not _fill(stdout, samples.data.cast("B")):
            return None
        return DecodedAudio(samples, tuple(notes.split("\n")) if notes else ())

    def _begin_clock(self, seconds: float) -> None:
        with self._lock:
            self._remaining = self._limit_of_file = seconds

    def _end_clock(self) -> bool:
        """Stop the clock; return whether the file was within its limit."""
        with self._lock:
            self._remaining = None
            return not self._late

    def _reap(self) -> str:
        """Discard the process and return the reason why it ended."""
        with self._lock:
            process, late = self._process, self._late
            self._process, self._late, self._remaining = None, False, None
        if process is None:
            return "the decoder process has ended"
        process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()
        if late:
            return f"not decoded within {self._limit_of_file:.0f} s"
        return f"the decoder process died ({f'signal {-status}' if status < 0 else f'exit status {status}'})"


def _send(process: "subprocess.Popen[bytes]", segments: Sequence[Segment]) -> None:
    request = pickle.dumps(list(segments), pickle.HIGHEST_PROTOCOL)
    stdin = _pipe(process.stdin)
    stdin.write(REQUEST_HEADER.pack(len(request)) + request)
    stdin.flush()


def _read_text(stdout: IO[bytes], size: int) -> str | None:
    """Read a text of ``size`` bytes; return None if there was not enough data."""
    text = stdout.read(size)
    return text.decode("utf-8", "surrogatepass") if len(text) == size else None


def _fill(stdout: IO[bytes], buffer: memoryview) -> bool:
    """Fill the buffer; return whether there was enough data."""
    filled = 0
    while filled < len(buffer):
        count = stdout.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not count:
            return False
        filled += count
    return True


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe

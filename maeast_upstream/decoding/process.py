"""What decodes batches of segments: another process, which may die without harm, or this one."""

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
from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment, file_bytes
from maeast_upstream.decoding.worker import ANSWER_HEADER, ERROR, READY, REQUEST_HEADER, attempt

START_SECONDS = 120.0
"""How long a process may take to import its decoders; on an idle machine it takes less than one."""
PIPE_BYTES = 1 << 20
"""What Linux lets any user ask for; its default of 64 KiB holds half a second of samples."""
BOOT = "import sys; sys.path[:] = {path!r}; from maeast_upstream.decoding.worker import main; main()"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""One thread each, as there are as many processes as cores. And glibc keeps the memory of one file for the next: handed
back to the system and taken again, page by page, it costs as much as decoding a WAV."""

Result = np.ndarray | AudioError
Room = Callable[[int], bool]
"""Waits until the result of that segment may be brought; False if no more are wanted."""
Deliver = Callable[[int, Result], None]


class Decoder(Protocol):
    """Decodes batches, one after the other, for one thread."""

    def begin(self) -> None:
        """A new run."""

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment, in order."""

    def tick(self, seconds: float) -> None:
        """So much time has passed; from another thread."""

    def interrupt(self) -> None:
        """Nothing more is wanted of this run; from another thread."""

    def close(self) -> None:
        """The last call."""


class InProcessDecoder:
    """Decodes in this process: no time limit, and a crash of a decoder ends everything."""

    def begin(self) -> None:
        """Nothing to do."""

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """As `Decoder` says."""
        for index, segment in enumerate(batch):
            if not room(index):
                return
            deliver(index, attempt(segment))

    def tick(self, seconds: float) -> None:
        """Nothing to do."""

    def interrupt(self) -> None:
        """The file that is being decoded is decoded to its end."""

    def close(self) -> None:
        """Nothing to do."""


class SubprocessDecoder:
    """Decodes in another process, which is started when it is needed and replaced when it dies.

    A fresh interpreter rather than multiprocessing: a fork beside torch's threads may hang, and spawn would import the
    main module of whoever calls, torch with it.
    """

    def __init__(self, limit_seconds: float, limit_seconds_per_mb: float) -> None:
        self._limit, self._limit_per_mb = limit_seconds, limit_seconds_per_mb
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._left: float | None = None
        self._allowed = 0.0
        self._late = self._busy = self._interrupted = False

    def begin(self) -> None:
        """As `Decoder` says."""
        self._interrupted = False

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """As `Decoder` says.

        Raises:
            RuntimeError: the process could not be started.
        """
        self._busy, done = True, 0
        while done < len(batch) and room(done):
            if self._process and self._process.poll() is not None:  # while it had nothing to do: no file's fault
                self._reap()
            process = self._process or self._start()
            with contextlib.suppress(OSError):  # it died: there will be no answer either
                _send(process, batch[done:])
            while done < len(batch):
                result = self._receive(process, batch[done], lambda: room(done))  # noqa: B023
                deliver(
                    done,
                    AudioError(f"{batch[done].path}: {self._reap()}") if result is None else result,
                )
                done += 1
                if self._process is None:
                    break
        self._busy = False

    def tick(self, seconds: float) -> None:
        """Kill the process if its file has had its time."""
        with self._lock:
            if self._left is None or self._process is None:
                return
            self._left -= seconds
            if self._left <= 0 and not self._late:
                self._late = True
                self._process.kill()

    def interrupt(self) -> None:
        """Kill the process if it is decoding."""
        with self._lock:
            self._interrupted = True
            if self._busy and self._process:
                self._process.kill()

    def close(self) -> None:
        """End the process: it ends itself when its stdin does."""
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
        # only text counts for an import, and nothing else may be written as a literal
        path = [place for place in sys.path if isinstance(place, str)]
        command = [sys.executable, "-c", BOOT.format(path=path)]
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": None if sys.stderr else subprocess.DEVNULL,  # closed: its number would go to the answers
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
            raise RuntimeError(f"a decoder process could not be started: {self._reap()}; its own words stand above")
        started: subprocess.Popen[bytes] = process
        return started

    def _receive(
        self,
        process: "subprocess.Popen[bytes]",
        segment: Segment,
        wait_for_room: Callable[[], bool],
    ) -> Result | None:
        """None if it dies, or is killed, before its answer is here."""
        stdout = _pipe(process.stdout)
        self._begin_clock(self._limit + self._limit_per_mb * file_bytes(segment) / 1e6)
        header = stdout.read(ANSWER_HEADER.size)
        if not self._end_clock() or len(header) < ANSWER_HEADER.size or not wait_for_room():
            return None
        kind, size = ANSWER_HEADER.unpack(header)
        if kind == ERROR:
            text = stdout.read(size)
            return AudioError(text.decode("utf-8", "surrogatepass")) if len(text) == size else None
        try:
            samples = np.empty(size // 4, np.float32)
        except MemoryError:
            self._reap()
            hours = size / 4 / SAMPLE_RATE / 3600
            return AudioError(f"{segment.path}: {hours:.1f} hours of audio do not fit in memory; cut it into stretches")
        return samples if _fill(stdout, samples.data.cast("B")) else None

    def _begin_clock(self, seconds: float) -> None:
        with self._lock:
            self._left = self._allowed = seconds

    def _end_clock(self) -> bool:
        """Whether there was time left."""
        with self._lock:
            self._left = None
            return not self._late

    def _reap(self) -> str:
        """Forget the process; how it died."""
        with self._lock:
            process, late = self._process, self._late
            self._process, self._late, self._left = None, False, None
        if process is None:
            return "the decoder process is gone"
        process.kill()
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _pipe(pipe).close()
        if late:
            return f"not decoded within {self._allowed:.0f} s"
        return f"the decoder process died ({f'signal {-status}' if status < 0 else f'exit status {status}'})"


def _send(process: "subprocess.Popen[bytes]", segments: Sequence[Segment]) -> None:
    request = pickle.dumps(list(segments), pickle.HIGHEST_PROTOCOL)
    stdin = _pipe(process.stdin)
    stdin.write(REQUEST_HEADER.pack(len(request)) + request)
    stdin.flush()


def _fill(stdout: IO[bytes], buffer: memoryview) -> bool:
    """Whether so much came."""
    place = 0
    while place < len(buffer):
        count = stdout.readinto(buffer[place:])  # type: ignore[attr-defined]
        if not count:
            return False
        place += count
    return True


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe

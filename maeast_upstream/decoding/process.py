"""The decoder of batches of segments in another process, whose death does no harm."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from maeast_upstream.audio.reading import AudioError, DecodedAudio
from maeast_upstream.data.segment import Segment
from maeast_upstream.decoding.decoder import Deliver, Limits, Room
from maeast_upstream.decoding.protocol import READY, Answer, AnswerReader, InvalidAnswerError, send_request

START_SECONDS = 120.0
"""Time limit for a process to start and import its decoders; on an idle machine it takes less than one second."""
STARTS = 6
"""Attempts to start a process that a signal ends, because that need not be its fault; 2 if it is beyond its limit."""
PIPE_BYTES = 1 << 20
"""Size of the pipe of answers, the largest that Linux gives to any user; its default of 64 KiB is 1 s of samples."""
BOOT_CODE = "import sys; sys.path[:] = {path!r}; from maeast_upstream.decoding.worker import main; main()"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Each process has one thread, as there are as many processes as cores. glibc keeps the memory of a file for the next,
because returning it to the system and getting it back page by page takes as long as decoding a WAV."""


class SubprocessDecoder:
    """Decodes in another process, which is started when it is needed and replaced when it dies.

    The process is a fresh interpreter and not multiprocessing's, because a fork beside torch's threads may hang, and
    spawn would import the main module of the program, and torch with it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._started: _Process | None = None
        self._remaining: float | None = None
        self._left = self._limit_of_file = 0.0
        self._sent = 0
        """Blocks of the present segment that were delivered, also by a process that has died."""
        self._late = self._busy = self._interrupted = False

    def start(self) -> None:
        """Start the process before it is needed; where that fails, `decode` will say so."""
        with contextlib.suppress(RuntimeError):
            self._started = self._started or _Process(self._limits)

    def begin(self) -> None:
        """Begin a new run."""
        self._interrupted, self._sent = False, 0

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order.

        A segment during which the process dies is decoded once more, alone in a new process, because its file need not
        be the reason: where memory runs out, Linux ends a decoding process first. Blocks that were delivered before
        are left out then.

        Raises:
            RuntimeError: The process could not be started.
        """
        self._busy, done = True, 0
        failure: _End | None = None
        while done < len(batch) and room(done):
            if self._process and self._process.has_ended():  # between two files, so that no file is the reason
                self._reap()
            process = self._process or self._start()
            request = batch[done : done + 1] if failure else batch[done:]
            self._send(process, request)
            for segment in request:
                answer = self._receive(process, segment, partial(room, done), partial(deliver, done))
                if isinstance(answer, _End) and not answer.late and not failure:
                    failure = answer
                    break
                deliver(done, _final(answer, failure, segment))
                done, failure, self._sent = done + 1, None, 0
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
        if self._started:
            self._started.end()
            self._started.discard()
        if self._process:
            self._process.end()
            self._reap()

    def _start(self) -> "_Process":
        for attempts in range(1, STARTS + 1):
            process, self._started = self._started or _Process(self._limits), None
            with self._lock:
                self._process = process
                if self._interrupted:
                    process.kill()
            self._begin_clock(START_SECONDS)
            ready = process.answers.read(1)
            in_time = self._end_clock()
            if (ready == READY and in_time) or self._interrupted:
                return process
            end = self._reap()
            if attempts == STARTS or not end.from_outside or (end.late and attempts > 1):
                raise RuntimeError(f"a decoder process could not be started: {end.reason}; its own message is above")
        raise AssertionError

    def _send(self, process: "_Process", segments: Sequence[Segment]) -> None:
        self._begin_clock(self._limits.seconds)
        with contextlib.suppress(OSError):  # it died; `_receive` finds out
            send_request(process.requests, segments)
        self._end_clock()

    def _receive(
        self,
        process: "_Process",
        segment: Segment,
        wait_for_room: Callable[[], bool],
        deliver: Callable[[np.ndarray], None],
    ) -> "Answer | _End":
        """Deliver the blocks of a segment; return the answer to it, or how the process ended before it was complete."""
        reader, number = AnswerReader(process.answers), 0
        self._begin_clock(self._limits.seconds_of(segment))
        try:
            while isinstance(answer := self._read(reader, wait_for_room), DecodedAudio) and reader.is_block:
                number += 1
                if number > self._limits.blocks:
                    raise InvalidAnswerError
                if number > self._sent:
                    deliver(answer.samples)
                    self._sent = number
                self._begin_clock(self._limits.seconds_of(segment))  # each block has the time of a whole file
        except EOFError:
            return self._reap()
        except InvalidAnswerError:
            return replace(self._reap(), reason="the decoder process gave no valid answer")
        except MemoryError:
            self._reap()
            return AudioError(f"{segment.path}: its samples do not fit in memory (MemoryError); cut it into segments")
        if answer is None:
            return self._reap()
        if isinstance(answer, DecodedAudio) and number < self._sent:
            return AudioError(f"{segment.path}: changed while it was decoded")
        return answer

    def _read(self, reader: AnswerReader, wait_for_room: Callable[[], bool]) -> Answer | None:
        """Read a block or the answer; None if the process was late or the run has ended. The clock is running."""
        answer: Answer | None = reader.begin()
        if self._end_clock() and answer is None and wait_for_room():
            self._resume_clock()
            answer = reader.finish()
            self._end_clock()
        return None if self._late else answer

    def _begin_clock(self, seconds: float) -> None:
        with self._lock:
            self._remaining = self._limit_of_file = seconds

    def _resume_clock(self) -> None:
        with self._lock:
            self._remaining = self._left

    def _end_clock(self) -> bool:
        """Stop the clock; return whether the process was within its limit."""
        with self._lock:
            self._left, self._remaining = self._remaining or 0.0, None
            return not self._late

    def _reap(self) -> "_End":
        """Discard the process and return how it ended."""
        with self._lock:
            process, late = self._process, self._late
            self._process, self._late, self._remaining = None, False, None
        status = process.discard() if process else 0
        if late:
            return _End(f"no answer within {self._limit_of_file:.0f} s", late=True, from_outside=True)
        return _End(f"the decoder process died ({_ending(status)})", late=False, from_outside=status < 0)


@dataclass(frozen=True)
class _End:
    """How a process ended before its answer was complete."""

    reason: str
    late: bool
    """Whether it was killed because of the time limit."""
    from_outside: bool
    """Whether a signal ended it."""


def _final(answer: "Answer | _End", failure: _End | None, segment: Segment) -> Answer:
    """Return the result of a segment whose first attempt, if there were two, ended with ``failure``."""
    if isinstance(answer, _End):
        return AudioError(f"{segment.path}: {answer.reason}{', twice' if failure else ''}")
    if failure and isinstance(answer, DecodedAudio):
        note = f"decoded at the second attempt; at the first, {failure.reason}"
        return replace(answer, notes=(*answer.notes, note))
    return answer


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    if -status == signal.SIGKILL:
        return "SIGKILL; perhaps memory ran out"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


class _Process:
    """A running process with what connects it."""

    def __init__(self, limits: Limits) -> None:
        # imports use only the text entries, and only those can be written as literals
        path = [entry for entry in sys.path if isinstance(entry, str)]
        command = [sys.executable, "-c", BOOT_CODE.format(path=path), str(limits.max_hours), str(limits.memory_bytes)]
        stderr = None if sys.stderr else subprocess.DEVNULL  # if closed, the pipe would get its number
        try:
            self.requests, stdin = socket.socketpair()
            with stdin:
                self._popen = subprocess.Popen(
                    command,
                    env={**os.environ, **ENVIRONMENT},
                    stdin=stdin.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    process_group=0,  # so that Linux wakes a stopped process when its parent has ended
                )
        except OSError as error:
            raise RuntimeError(f"a decoder process could not be started ({error}); try fewer workers, or 0") from error
        assert self._popen.stdout is not None
        self.answers = self._popen.stdout
        with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux; and more than it may grant
            import fcntl

            fcntl.fcntl(self.answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._popen.poll() is not None

    def kill(self) -> None:
        """End the process at once."""
        self._popen.kill()

    def end(self) -> None:
        """Let the process end by itself, for which it has a second."""
        self.requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1.0)

    def discard(self) -> int:
        """End the process and release what connects it; return its exit status, below 0 for a signal."""
        self.kill()
        self._popen.wait()
        self.requests.close()
        self.answers.close()
        return int(self._popen.returncode)

"""Decoders of batches of segments: one in another process, whose death does no harm, and one in this process."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.audio.reading import AudioError, DecodedAudio
from maeast_upstream.data.inputs import Segment, file_bytes
from maeast_upstream.decoding.bounded import BoundedJoin
from maeast_upstream.decoding.protocol import READY, Answer, AnswerReader, InvalidAnswerError, send_request
from maeast_upstream.decoding.worker import MEMORY_BYTES, attempt

LIMIT_SECONDS, LIMIT_SECONDS_PER_MB = 60.0, 2.0
"""Time limit of a file and its extension per MB: far more than a decoder needs, for slow disks and busy machines."""
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
    """Decodes in this process, without limits of time and memory; a crash of a decoder ends the program."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def begin(self) -> None:
        """Do nothing."""

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order."""
        for index, segment in enumerate(batch):
            if not room(index):
                return
            join = BoundedJoin(segment.path, self._limits.max_hours)
            deliver(index, attempt(segment, join))
            join.close()

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

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._started: _Process | None = None
        self._remaining: float | None = None
        self._limit_of_file = 0.0
        self._late = self._busy = self._interrupted = False

    def start(self) -> None:
        """Start the process before it is needed; where that fails, `decode` will say so."""
        with contextlib.suppress(RuntimeError):
            self._started = self._started or _Process(self._limits)

    def begin(self) -> None:
        """Begin a new run."""
        self._interrupted = False

    def decode(self, batch: Sequence[Segment], room: Room, deliver: Deliver) -> None:
        """Deliver the result of each segment in order.

        A segment during which the process dies is decoded once more, alone in a new process, because its file need not
        be the reason: where memory runs out, Linux ends a decoding process first.

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
                answer = self._receive(process, segment, lambda: room(done))  # noqa: B023
                if isinstance(answer, _End) and not answer.late and not failure:
                    failure = answer
                    break
                deliver(done, _final(answer, failure, segment))
                done, failure = done + 1, None
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

    def _receive(self, process: "_Process", segment: Segment, wait_for_room: Callable[[], bool]) -> "Answer | _End":
        """Return the answer to a segment, or how the process ended before it was complete."""
        reader, limit = AnswerReader(process.answers, process.requests), self._limits.seconds_of(segment)
        try:
            self._begin_clock(limit)
            answer: Answer | None = reader.begin()
            if self._end_clock() and answer is None and wait_for_room():
                self._begin_clock(limit)
                answer = reader.finish()
                self._end_clock()
            return answer if answer and not self._late else self._reap()
        except EOFError:
            return self._reap()
        except InvalidAnswerError:
            return replace(self._reap(), reason="the decoder process gave no valid answer")
        except (MemoryError, OSError) as error:  # OSError: of mapping a file
            self._reap()
            reason = getattr(error, "strerror", None) or "MemoryError"
            return AudioError(f"{segment.path}: its samples do not fit in memory ({reason}); cut it into segments")

    def _begin_clock(self, seconds: float) -> None:
        with self._lock:
            self._remaining = self._limit_of_file = seconds

    def _end_clock(self) -> bool:
        """Stop the clock; return whether the process was within its limit."""
        with self._lock:
            self._remaining = None
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

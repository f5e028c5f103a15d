"""The program of a decoding process of `DecodePool`: it reads segments from stdin and writes samples to stdout.

It does not import torch, which would take 2 s and 300 MB in each process.
"""

import contextlib
import functools
import io
import math
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maeast_upstream.audio.joining import Join
from maeast_upstream.audio.reading import AudioError, DecodedAudio, TooLongError, decode_audio, duration_ms
from maeast_upstream.audio.segments import SequentialReader
from maeast_upstream.audio.window import window
from maeast_upstream.data.segment import Segment
from maeast_upstream.decoding.bounded import BoundedJoin
from maeast_upstream.decoding.protocol import READY, read_request, send_answer, send_block
from maeast_upstream.decoding.stream import BlockJoin
from maeast_upstream.storage.remote import ErrorCapturingFile, is_remote, open_remote

MEMORY_BYTES = 2 << 30
"""Default limit of the memory of a decoding process, which needs 0.1 GB."""
MAX_MEMBER_BYTES = 32 << 20
"""Larger members of tars are not read into memory at once."""


class _NamedBytes(io.BytesIO):
    """Bytes with a name for messages."""

    name = ""


def read_segment(segment: Segment) -> np.ndarray:
    """Return the samples of `decode_segment`, of any length; those of long audio are in a temporary file."""
    join = BoundedJoin(segment.path, max_hours=math.inf)
    try:
        return decode_segment(segment, join).samples
    finally:
        join.close()


def decode_segment(segment: Segment, join: Join) -> DecodedAudio:
    """Decode a segment that is not packed.

    Args:
        segment: The segment.
        join: Joins its blocks.

    Returns:
        (S,) float32 samples at 16 kHz, and notes, as from `decode_audio`.

    Raises:
        AudioError: `decode_audio` refuses it, its file cannot be reached, or the segment has an error.
    """
    if segment.error is not None:
        raise AudioError(segment.error)
    if not segment.file and not is_remote(segment.path):
        return _read_local(segment, join)
    address = segment.file or segment.path
    try:
        with open_remote(address) if is_remote(address) else Path(address).open("rb") as file:
            source = _capturing(file, segment) if segment.offset is None else _member(file, segment)
            return _read_stream(source, segment, join)
    except AudioError:
        raise
    except (OSError, ValueError) as error:
        raise AudioError(f"{segment.path}: cannot be read ({_reason(error)})") from error


_thread = threading.local()
"""The reader of the previous segment's file, because a manifest lists the segments of a file one after the other, and
the state in which that file was opened: attributes ``reader`` and ``state``."""


def _read_local(segment: Segment, join: Join) -> DecodedAudio:
    if segment.start_ms is None and segment.end_ms is None:
        return decode_audio(segment.path, join=join)
    try:
        status = os.stat(segment.path)  # noqa: PTH116
    except (OSError, ValueError):
        return decode_audio(segment.path)  # raises the reason
    state = (segment.path, status.st_ino, status.st_size, status.st_mtime_ns)
    if getattr(_thread, "state", None) != state:
        if previous := getattr(_thread, "reader", None):
            previous.close()
        _thread.reader, _thread.state = SequentialReader(segment.path), state
    reader: SequentialReader = _thread.reader
    return reader.read(segment.start_ms, segment.end_ms, join)


def _member(file: BinaryIO, segment: Segment) -> _NamedBytes | io.BufferedReader:
    begin, size = segment.offset or 0, segment.size or 0
    if size > MAX_MEMBER_BYTES and file.seek(0, os.SEEK_END) >= begin + size:
        return _capturing(window(file, begin, begin + size), segment)
    file.seek(begin)
    source = _NamedBytes(file.read(min(size, MAX_MEMBER_BYTES)))
    source.name = segment.path
    if len(source.getbuffer()) < size:
        raise AudioError(f"{segment.path}: {segment.file} ends before this member; was it changed?")
    return source


def _capturing(file: BinaryIO, segment: Segment) -> io.BufferedReader:
    return io.BufferedReader(ErrorCapturingFile(file, segment.path), 1 << 16)


def _read_stream(source: _NamedBytes | io.BufferedReader, segment: Segment, join: Join) -> DecodedAudio:
    if not source.read(1):
        _raise_captured(source, segment)
        raise AudioError(f"{segment.path}: empty file")
    source.seek(0)
    try:
        decoded = decode_audio(source, segment.start_ms, segment.end_ms, join)
    except AudioError:
        _raise_captured(source, segment)
        raise
    _raise_captured(source, segment)
    return decoded


def _raise_captured(source: _NamedBytes | io.BufferedReader, segment: Segment) -> None:
    error = getattr(getattr(source, "raw", None), "error", None)
    if error is not None:
        raise AudioError(f"{segment.path}: cannot be read ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def attempt(segment: Segment, join: BlockJoin) -> DecodedAudio | AudioError:
    """Decode a segment, and return any failure as the error of its file."""
    try:
        return decode_segment(segment, join)
    except TooLongError as error:
        reason = _declared_length(segment, join.max_hours) or str(error)
        return AudioError(f"{reason}; the limit is {join.max_hours:g} hours (--max-hours)")
    except AudioError as error:
        return AudioError(str(error))  # without the traceback, which would keep the samples
    except MemoryError:
        return AudioError(f"{segment.path}: decoding it needs more memory than a decoder may have")
    except Exception as error:  # a fault in a decoder must not end the run
        name, reason = type(error).__name__, _reason(error)
        return AudioError(f"{segment.path}: {name if reason == name else f'{name}: {reason}'}")


def _declared_length(segment: Segment, max_hours: float) -> str:
    """Say how long a file is that is too long; "" where its header does not declare it."""
    if segment.file or is_remote(segment.path) or segment.end_ms is not None:
        return ""
    try:
        hours = duration_ms(segment.path) / 3_600_000
    except Exception:  # it is known to be audio
        return ""
    return f"{segment.path}: {hours:.5g} hours of audio" if hours > max_hours else ""


def main() -> None:
    """Decode and answer until the parent ends this process by closing its stdin.

    Arguments of the program are the hours of audio that a file may have, and the bytes of memory for this process.
    """
    max_hours, memory = float(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    with contextlib.suppress(OSError):  # Linux: if memory runs out, kill this process rather than the model's
        Path("/proc/self/oom_score_adj").write_text("1000")
    limit_memory(memory)
    answers = os.fdopen(os.dup(1), "wb")
    requests: queue.SimpleQueue[list[Segment]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests), daemon=True).start()
    import soundfile  # noqa: F401  # before the first file, because of its time limit
    import soxr  # noqa: F401

    # messages of the decoders about broken files would disturb the progress bar
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    send = functools.partial(send_block, answers)
    with contextlib.suppress(BrokenPipeError):
        answers.write(READY)
        answers.flush()
        while True:
            for segment in requests.get():
                send_answer(answers, attempt(segment, BlockJoin(segment.path, max_hours, send)))


def limit_memory(size: int) -> None:
    """Limit the memory of this process, unless it has a lower limit; memory beyond it is a MemoryError.

    The limit counts what is written to (RLIMIT_DATA), and not addresses, of which libraries reserve many. Systems other
    than Linux may ignore it.
    """
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [limit for limit in (size, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))


def _receive(stdin: BinaryIO, requests: "queue.SimpleQueue[list[Segment]]") -> None:
    """Put requests into the queue; at the end of stdin end the process at once, even while it decodes."""
    try:
        while (segments := read_request(stdin)) is not None:
            requests.put(segments)
    finally:
        os._exit(0)

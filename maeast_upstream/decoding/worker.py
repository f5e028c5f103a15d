"""The process that decodes for `decoding.DecodePool`: segments come through stdin, samples go through stdout.

It imports no torch (2 s and 300 MB each). A request is a pickled list of segments behind its length; an answer is a
byte, a length, and the float32 samples or the text of the error.
"""

import contextlib
import io
import os
import pickle
import queue
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.audio.segments import SequentialReader
from maeast_upstream.data.inputs import Segment
from maeast_upstream.storage.remote import ErrorCapturingFile, is_remote, open_remote

READY = b"R"
SAMPLES, ERROR = 0, 1
REQUEST_HEADER = struct.Struct("<I")
ANSWER_HEADER = struct.Struct("<BQ")


class _Named(io.BytesIO):
    """Bytes that errors can name."""

    name = ""


def read_segment(segment: Segment) -> np.ndarray:
    """The samples of a segment that is not packed.

    Returns:
        (S,) float32 at 16 kHz, as `read_audio` gives.

    Raises:
        AudioError: whatever `read_audio` refuses, a file that cannot be reached, or the segment's own error.
    """
    if segment.error is not None:
        raise AudioError(segment.error)
    if not segment.file and not is_remote(segment.path):
        return _read_local(segment)
    place = segment.file or segment.path
    try:
        with open_remote(place) if is_remote(place) else Path(place).open("rb") as file:
            source = _member(file, segment) if segment.file else _remembering(file, segment)
            return _read_stream(source, segment)
    except AudioError:
        raise
    except (OSError, ValueError) as error:
        raise AudioError(f"{segment.path}: cannot be read ({_said(error)})") from error


_thread = threading.local()
"""``stretches``: the file of the stretch before, because a manifest lists a file's in a row; ``state``: how it was."""


def _read_local(segment: Segment) -> np.ndarray:
    if segment.start_ms is None and segment.end_ms is None:
        return read_audio(segment.path)
    try:
        found = os.stat(segment.path)  # noqa: PTH116
    except (OSError, ValueError):
        return read_audio(segment.path)  # raises what is wrong
    state = (segment.path, found.st_ino, found.st_size, found.st_mtime_ns)
    if getattr(_thread, "state", None) != state:
        if last := getattr(_thread, "stretches", None):
            last.close()
        _thread.stretches, _thread.state = SequentialReader(segment.path), state
    samples: np.ndarray = _thread.stretches.read(segment.start_ms, segment.end_ms)
    return samples


def _member(file: BinaryIO, segment: Segment) -> _Named:
    file.seek(segment.offset or 0)
    source = _Named(file.read(segment.size or 0))
    source.name = segment.path
    if len(source.getbuffer()) < (segment.size or 0):
        raise AudioError(f"{segment.path}: {segment.file} ends before it does; was it changed?")
    return source


def _remembering(file: BinaryIO, segment: Segment) -> io.BufferedReader:
    return io.BufferedReader(ErrorCapturingFile(file, segment.path), 1 << 16)


def _read_stream(source: _Named | io.BufferedReader, segment: Segment) -> np.ndarray:
    if not source.read(1):
        _raise_remembered(source, segment)
        raise AudioError(f"{segment.path}: empty file")
    source.seek(0)
    try:
        samples = read_audio(source, segment.start_ms, segment.end_ms)
    except AudioError:
        _raise_remembered(source, segment)
        raise
    _raise_remembered(source, segment)
    return samples


def _raise_remembered(source: _Named | io.BufferedReader, segment: Segment) -> None:
    error = getattr(getattr(source, "raw", None), "error", None)
    if error is not None:
        raise AudioError(f"{segment.path}: cannot be read ({_said(error)})") from error


def _said(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def attempt(segment: Segment) -> np.ndarray | AudioError:
    """`read_segment`, every failure as the error of its file."""
    try:
        return read_segment(segment)
    except AudioError as error:
        return error
    except Exception as error:  # a fault in a decoder must not cost the run
        kind, said = type(error).__name__, _said(error)
        return AudioError(f"{segment.path}: {kind if said == kind else f'{kind}: {said}'}")


def main() -> None:
    """Answer until stdin ends, which it does when the parent closes it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to end
    with contextlib.suppress(OSError):  # Linux: where memory runs out, this process goes rather than the model's
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.fdopen(os.dup(1), "wb")
    requests: queue.SimpleQueue[list[Segment]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests), daemon=True).start()
    import soundfile  # noqa: F401  # before the first file, whose time limit would otherwise count it
    import soxr  # noqa: F401

    # what decoders print about broken files would tear the progress bar
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    with contextlib.suppress(BrokenPipeError):
        answers.write(READY)
        answers.flush()
        while True:
            for segment in requests.get():
                _answer(answers, attempt(segment))


def _receive(stdin: BinaryIO, requests: "queue.SimpleQueue[list[Segment]]") -> None:
    """Requests into the queue. At the end of stdin the process ends at once, even in the middle of a file."""
    while len(header := stdin.read(REQUEST_HEADER.size)) == REQUEST_HEADER.size:
        (length,) = REQUEST_HEADER.unpack(header)
        requests.put(pickle.loads(stdin.read(length)))  # from the parent, through a pipe that only it holds
    os._exit(0)


def _answer(answers: BinaryIO, result: np.ndarray | AudioError) -> None:
    if isinstance(result, AudioError):
        body: Any = str(result).encode("utf-8", "surrogatepass")
        answers.write(ANSWER_HEADER.pack(ERROR, len(body)))
    else:
        body = np.ascontiguousarray(result, np.float32).data.cast("B")
        answers.write(ANSWER_HEADER.pack(SAMPLES, body.nbytes))
    answers.write(body)
    answers.flush()

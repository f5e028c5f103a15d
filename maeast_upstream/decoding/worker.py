"""The program of a decoding process of `DecodePool`: it reads segments from stdin and writes samples to stdout.

It does not import torch, which would take 2 s and 300 MB in each process. A request is a length and a pickled list of
segments; an answer is a byte for its type, two lengths, the notes, and the float32 samples or the text of the error.
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
from typing import BinaryIO

import numpy as np

from maeast_upstream.audio.reading import AudioError, DecodedAudio, decode_audio
from maeast_upstream.audio.segments import SequentialReader
from maeast_upstream.data.inputs import Segment
from maeast_upstream.storage.remote import ErrorCapturingFile, is_remote, open_remote

READY = b"R"
SAMPLES, ERROR = 0, 1
REQUEST_HEADER = struct.Struct("<I")
ANSWER_HEADER = struct.Struct("<BIQ")
"""Type, bytes of the notes, which are lines, and bytes of the samples or the error."""


class _NamedBytes(io.BytesIO):
    """Bytes with a name for messages."""

    name = ""


def read_segment(segment: Segment) -> np.ndarray:
    """Return the samples of `decode_segment`."""
    return decode_segment(segment).samples


def decode_segment(segment: Segment) -> DecodedAudio:
    """Decode a segment that is not packed.

    Returns:
        (S,) float32 samples at 16 kHz, and notes, as from `decode_audio`.

    Raises:
        AudioError: `decode_audio` refuses it, its file cannot be reached, or the segment has an error.
    """
    if segment.error is not None:
        raise AudioError(segment.error)
    if not segment.file and not is_remote(segment.path):
        return _read_local(segment)
    address = segment.file or segment.path
    try:
        with open_remote(address) if is_remote(address) else Path(address).open("rb") as file:
            source = _capturing(file, segment) if segment.offset is None else _member(file, segment)
            return _read_stream(source, segment)
    except AudioError:
        raise
    except (OSError, ValueError) as error:
        raise AudioError(f"{segment.path}: cannot be read ({_reason(error)})") from error


_thread = threading.local()
"""The reader of the previous segment's file, because a manifest lists the segments of a file one after the other, and
the state in which that file was opened: attributes ``reader`` and ``state``."""


def _read_local(segment: Segment) -> DecodedAudio:
    if segment.start_ms is None and segment.end_ms is None:
        return decode_audio(segment.path)
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
    return reader.read(segment.start_ms, segment.end_ms)


def _member(file: BinaryIO, segment: Segment) -> _NamedBytes:
    file.seek(segment.offset or 0)
    source = _NamedBytes(file.read(segment.size or 0))
    source.name = segment.path
    if len(source.getbuffer()) < (segment.size or 0):
        raise AudioError(f"{segment.path}: {segment.file} ends before this member; was it changed?")
    return source


def _capturing(file: BinaryIO, segment: Segment) -> io.BufferedReader:
    return io.BufferedReader(ErrorCapturingFile(file, segment.path), 1 << 16)


def _read_stream(source: _NamedBytes | io.BufferedReader, segment: Segment) -> DecodedAudio:
    if not source.read(1):
        _raise_captured(source, segment)
        raise AudioError(f"{segment.path}: empty file")
    source.seek(0)
    try:
        decoded = decode_audio(source, segment.start_ms, segment.end_ms)
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


def attempt(segment: Segment) -> DecodedAudio | AudioError:
    """Decode a segment, and return any failure as the error of its file."""
    try:
        return decode_segment(segment)
    except AudioError as error:
        return error
    except Exception as error:  # a fault in a decoder must not end the run
        name, reason = type(error).__name__, _reason(error)
        return AudioError(f"{segment.path}: {name if reason == name else f'{name}: {reason}'}")


def main() -> None:
    """Answer requests until stdin ends, because the parent has closed it or has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    with contextlib.suppress(OSError):  # Linux: if memory runs out, kill this process rather than the model's
        Path("/proc/self/oom_score_adj").write_text("1000")
    answers = os.fdopen(os.dup(1), "wb")
    requests: queue.SimpleQueue[list[Segment]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests), daemon=True).start()
    import soundfile  # noqa: F401  # before the first file, because of its time limit
    import soxr  # noqa: F401

    # messages of the decoders about broken files would disturb the progress bar
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    with contextlib.suppress(BrokenPipeError):
        answers.write(READY)
        answers.flush()
        while True:
            for segment in requests.get():
                _answer(answers, attempt(segment))


def _receive(stdin: BinaryIO, requests: "queue.SimpleQueue[list[Segment]]") -> None:
    """Put requests into the queue; at the end of stdin end the process at once, even while it decodes."""
    while len(header := stdin.read(REQUEST_HEADER.size)) == REQUEST_HEADER.size:
        (length,) = REQUEST_HEADER.unpack(header)
        requests.put(pickle.loads(stdin.read(length)))  # safe: only the parent can write to this pipe
    os._exit(0)


def _answer(answers: BinaryIO, answer: DecodedAudio | AudioError) -> None:
    if isinstance(answer, AudioError):
        notes, body = b"", memoryview(_encode(str(answer)))
        answer_type = ERROR
    else:
        notes, body = _encode("\n".join(answer.notes)), np.ascontiguousarray(answer.samples, np.float32).data.cast("B")
        answer_type = SAMPLES
    answers.write(ANSWER_HEADER.pack(answer_type, len(notes), body.nbytes) + notes)
    answers.write(body)
    answers.flush()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

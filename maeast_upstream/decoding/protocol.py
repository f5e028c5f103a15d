"""What the decoding processes of `DecodePool` and their parent exchange.

A request is a length and a pickled list of segments. An answer is a byte for its type, two lengths, the notes, and the
float32 samples or the text of the error. Samples in a temporary file come as its descriptor. Requests and descriptors
go through a socket, answers through a pipe.
"""

import os
import pickle
import socket
import stat
import struct
from collections.abc import Sequence
from typing import IO, BinaryIO

import numpy as np

from maeast_upstream.audio.reading import AudioError, DecodedAudio
from maeast_upstream.data.segment import Segment
from maeast_upstream.decoding.bounded import MEMORY_HOURS, SAMPLES_PER_HOUR, BoundedJoin, map_samples

READY = b"R"
SAMPLES, ERROR, FILE = 0, 1, 2
REQUEST_HEADER = struct.Struct("<I")
ANSWER_HEADER = struct.Struct("<BIQ")
"""Type, bytes of the notes, which are lines, and bytes of the samples or the error."""
MAX_TEXT_BYTES = 1 << 20
"""Limit of the notes and of an error; longer ones are cut."""
MAX_SAMPLE_BYTES = round(MEMORY_HOURS * SAMPLES_PER_HOUR) * 4
"""Limit of samples that do not come in a file."""

Answer = DecodedAudio | AudioError


class InvalidAnswerError(Exception):
    """A process answered what is no answer."""


def send_request(requests: socket.socket, segments: Sequence[Segment]) -> None:
    """Send segments to a process; OSError if it has ended."""
    request = pickle.dumps(list(segments), pickle.HIGHEST_PROTOCOL)
    requests.sendall(REQUEST_HEADER.pack(len(request)) + request)


def read_request(requests: BinaryIO) -> list[Segment] | None:
    """Read the next request in the process; None at the end."""
    header = requests.read(REQUEST_HEADER.size)
    if len(header) < REQUEST_HEADER.size:
        return None
    segments: list[Segment] = pickle.loads(requests.read(*REQUEST_HEADER.unpack(header)))  # only the parent writes it
    return segments


def send_answer(answers: BinaryIO, requests: socket.socket, answer: Answer, join: BoundedJoin) -> None:
    """Send the answer to a segment, whose samples ``join`` has joined, from the process."""
    if isinstance(answer, AudioError):
        text = _encode(str(answer))
        answers.write(ANSWER_HEADER.pack(ERROR, 0, len(text)) + text)
    else:
        samples, notes = answer.samples, _encode("\n".join(answer.notes))
        if samples.nbytes > MAX_SAMPLE_BYTES and samples is not join.joined:
            samples = join(iter([samples]))
        body = np.ascontiguousarray(samples, np.float32).data.cast("B")
        file = join.file if samples is join.joined else None
        answers.write(ANSWER_HEADER.pack(FILE if file else SAMPLES, len(notes), body.nbytes) + notes)
        if file:
            socket.send_fds(requests, [b"F"], [file.fileno()])
        else:
            answers.write(body)
    answers.flush()


class AnswerReader:
    """Reads an answer in the parent, in two steps, between which it may wait.

    A process that a hostile file has taken over may answer anything, so nothing that it declares is believed.
    """

    def __init__(self, answers: IO[bytes], requests: socket.socket) -> None:
        self._answers, self._requests = answers, requests
        self._file = False
        self._size = 0
        self._notes: tuple[str, ...] = ()

    def begin(self) -> AudioError | None:
        """Read the beginning of an answer; return it if it is an error.

        Raises:
            EOFError: The process ended before.
            InvalidAnswerError: It is not a valid answer.
        """
        answer_type, notes_size, self._size = ANSWER_HEADER.unpack(self._read(ANSWER_HEADER.size))
        limit = {SAMPLES: MAX_SAMPLE_BYTES, ERROR: MAX_TEXT_BYTES, FILE: 1 << 62}.get(answer_type, -1)
        if notes_size > MAX_TEXT_BYTES or self._size > limit or (answer_type != ERROR and self._size % 4):
            raise InvalidAnswerError
        if answer_type == ERROR:
            return AudioError(self._read_text(self._size))
        notes = self._read_text(notes_size)
        self._notes = tuple(notes.split("\n")) if notes else ()
        self._file = answer_type == FILE
        return None

    def finish(self) -> DecodedAudio:
        """Read the rest of an answer that is not an error.

        Raises:
            EOFError, InvalidAnswerError: As in `begin`.
            MemoryError: The samples do not fit in memory.
        """
        if self._file:
            return DecodedAudio(self._map(), self._notes)
        samples = np.empty(self._size // 4, np.float32)
        buffer, filled = samples.data.cast("B"), 0
        while filled < len(buffer):
            count = self._answers.readinto(buffer[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count
        return DecodedAudio(samples, self._notes)

    def _map(self) -> np.ndarray:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._requests, 1, 1)
        except ConnectionError as error:
            raise EOFError from error
        if not message:
            raise EOFError
        if len(descriptors) != 1:
            raise InvalidAnswerError
        with os.fdopen(descriptors[0], "r+b") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size != self._size or not self._size:
                raise InvalidAnswerError
            return map_samples(file)

    def _read(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _read_text(self, size: int) -> str:
        try:
            return self._read(size).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise InvalidAnswerError from error


def _encode(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return encoded if len(encoded) <= MAX_TEXT_BYTES else encoded[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()

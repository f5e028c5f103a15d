"""What the decoding processes of `DecodePool` and their parent exchange.

A request is a length and a pickled list of segments. An answer is a byte for its type, two lengths, the notes, and the
float32 samples or the text of the error. Before it come the full blocks of long audio, as answers of another type.
Requests go through a socket, answers through a pipe.
"""

import pickle
import socket
import struct
from collections.abc import Sequence
from typing import IO, BinaryIO

import numpy as np

from maeast_upstream.audio.reading import AudioError, DecodedAudio
from maeast_upstream.data.segment import Segment
from maeast_upstream.decoding import stream

READY = b"R"
SAMPLES, ERROR, BLOCK = 0, 1, 2
REQUEST_HEADER = struct.Struct("<I")
ANSWER_HEADER = struct.Struct("<BIQ")
"""Type, bytes of the notes, which are lines, and bytes of the samples or the error."""
MAX_TEXT_BYTES = 1 << 20
"""Limit of the notes and of an error; longer ones are cut."""
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


def send_block(answers: BinaryIO, block: np.ndarray) -> None:
    """Send a full block of a segment's samples, which others and the answer follow, from the process."""
    answers.write(ANSWER_HEADER.pack(BLOCK, 0, block.nbytes))
    answers.write(block.data.cast("B"))
    answers.flush()


def send_answer(answers: BinaryIO, answer: Answer) -> None:
    """Send the answer to a segment from the process."""
    if isinstance(answer, AudioError):
        text = _encode(str(answer))
        answers.write(ANSWER_HEADER.pack(ERROR, 0, len(text)) + text)
    else:
        notes = _encode("\n".join(answer.notes))
        body = np.ascontiguousarray(answer.samples, np.float32).data.cast("B")
        answers.write(ANSWER_HEADER.pack(SAMPLES, len(notes), body.nbytes) + notes)
        answers.write(body)
    answers.flush()


class AnswerReader:
    """Reads an answer, or a block before it, in the parent, in two steps, between which it may wait.

    A process that a hostile file has taken over may answer anything, so nothing that it declares is believed.
    """

    def __init__(self, answers: IO[bytes]) -> None:
        self._answers = answers
        self.is_block = False
        """Whether it is a block, which another answer follows."""
        self._size = 0
        self._notes: tuple[str, ...] = ()

    def begin(self) -> AudioError | None:
        """Read the beginning of an answer; return it if it is an error.

        Raises:
            EOFError: The process ended before.
            InvalidAnswerError: It is not a valid answer.
        """
        answer_type, notes_size, self._size = ANSWER_HEADER.unpack(self._read(ANSWER_HEADER.size))
        full = 4 * stream.BLOCK_SAMPLES
        limit = {SAMPLES: full, ERROR: MAX_TEXT_BYTES, BLOCK: full}.get(answer_type, -1)
        if notes_size > MAX_TEXT_BYTES or self._size > limit or (answer_type != ERROR and self._size % 4):
            raise InvalidAnswerError
        self.is_block = answer_type == BLOCK
        if answer_type == ERROR:
            return AudioError(self._read_text(self._size))
        if self.is_block and self._size < full:
            raise InvalidAnswerError
        notes = self._read_text(notes_size)
        self._notes = tuple(notes.split("\n")) if notes else ()
        return None

    def finish(self) -> DecodedAudio:
        """Read the rest of an answer that is not an error.

        Raises:
            EOFError: The process ended before.
            MemoryError: The samples do not fit in memory.
        """
        samples = np.empty(self._size // 4, np.float32)
        buffer, filled = samples.data.cast("B"), 0
        while filled < len(buffer):
            count = self._answers.readinto(buffer[filled:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            filled += count
        return DecodedAudio(samples, self._notes)

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

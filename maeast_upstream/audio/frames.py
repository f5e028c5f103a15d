"""Decodes the packets of a file by FFmpeg, beyond what is broken."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

MAX_FAULTS = 1000
"""Faults of a container after which the rest of the file is not tried; a broken packet is no fault of the container."""
RAW_STREAMS = frozenset({"aac", "ac3", "eac3", "mp3"})
"""Containers without time stamps: FFmpeg counts packets, and adds what is broken to one of them."""


@dataclass(slots=True)
class Frame:
    """A decoded frame, and what is known about the packets before it."""

    sound: "av.AudioFrame"
    stamp: float | None
    """Its time stamp in seconds; None if it has none."""
    seconds: float
    """Its length."""
    broken: str
    """Why packets since the previous frame could not be decoded; "" if they could."""
    lost: int
    """How many frames these were by their bytes, more than the time stamps count, in streams without real ones."""


class Frames:
    """Iterates over the decoded frames of the first audio stream of a file."""

    def __init__(self, container: "av.container.InputContainer") -> None:
        """Begin at the present position of the container."""
        self.broken = ""
        """Why packets since the last frame could not be decoded; "" if they could."""
        self.unnamed = False
        """Whether there were packets of a stream that begins later in the file; they are left out."""
        self._container, self._faults, self._lost = container, 0, 0
        self._stream = container.streams.audio[0]
        self._raw = container.format.name in RAW_STREAMS
        self._is_flac, self._has_times = container.format.name == "flac", self._stream.time_base is not None
        self._sizes: deque[int] = deque(maxlen=100)
        self._first, self._bytes = 0, 0
        """First byte of the first packet, and bytes of all packets."""
        self._flac_block = 0
        self._frames = self._decoded()

    def __iter__(self) -> Iterator[Frame]:
        """Return the iterator."""
        return self._frames

    def __next__(self) -> Frame:
        """Decode the next frame."""
        return next(self._frames)

    def left_out(self) -> int:
        """Return how many bytes FFmpeg left out between packets, in a stream that consists of them; 0 if few."""
        left = (self._container.size or 0) - self._first - self._bytes
        few = 2 * sum(self._sizes) / max(1, len(self._sizes))
        return left if self._raw and left > few else 0

    def _decoded(self) -> Iterator[Frame]:
        import av

        for packet in self._packets():
            if not self._bytes:
                self._first = packet.pos or 0
            self._bytes += packet.size
            try:
                sounds = packet.decode()
            except av.EOFError:
                continue
            except (av.FFmpegError, ValueError) as error:
                self.broken = reason_of(error)
                if self._raw and self._sizes:  # FFmpeg adds what it does not understand to a packet
                    self._lost += max(0, round(packet.size * len(self._sizes) / sum(self._sizes)) - 1)
                continue
            self._sizes.append(packet.size)
            for sound in sounds:
                if isinstance(sound, av.AudioFrame) and sound.samples:
                    seconds = sound.samples / sound.sample_rate
                    yield Frame(sound, self._stamp(packet, sound), seconds, self.broken, self._lost)
                    self.broken, self._lost = "", 0

    def _stamp(self, packet: "av.Packet[av.AudioStream]", sound: "av.AudioFrame") -> float | None:
        if self._is_flac:  # FFmpeg's time stamps are wrong in damaged files
            self._flac_block = self._flac_block or sound.samples
            number = flac_sample(bytes(packet)[:16], self._flac_block)
            return None if number is None else number / sound.sample_rate
        return sound.time if self._has_times else None

    def _packets(self) -> Iterator["av.Packet[av.AudioStream]"]:
        import av

        while self._faults < MAX_FAULTS:
            try:
                yield from self._container.demux(self._stream)
                return
            except (av.FFmpegError, ValueError) as error:
                self.broken = reason_of(error)
                self._faults += 1
            except IndexError:  # as PyAV 18 raises for each packet of a stream that the header does not name
                self.unnamed = True


def flac_sample(header: bytes, block: int) -> int | None:
    """Return the number of the first sample of a FLAC frame (RFC 9639, section 9.1); None if it is broken.

    Args:
        header: The first bytes of the frame.
        block: Samples of the frames of the file, where all but the last have the same number.
    """
    if len(header) < 11 or header[0] != 0xFF or header[1] & 0xFE != 0xF8:
        return None
    ones = 8 - (header[4] ^ 0xFF).bit_length()  # coded as UTF-8, by up to 7 bytes
    number = header[4] & (0x7F >> ones)
    for byte in header[5 : 4 + ones]:
        number = number << 6 | byte & 0x3F
    return number if header[1] & 1 else number * block


def reason_of(error: BaseException) -> str:
    """Return FFmpeg's message without number and name."""
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return "Invalid data" if reason.startswith("Error number") else reason

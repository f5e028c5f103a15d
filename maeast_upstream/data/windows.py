"""Windows: pieces of equal length that long audio is cut into, each of which gets an embedding of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from maeast_upstream.audio.constants import MAX_MS, SAMPLE_RATE
from maeast_upstream.checks import LARGEST, quote

MIN_SECONDS = 0.025
"""Shortest window: the front end's analysis window."""
MIN_STEP_SECONDS = 0.01
"""Least distance of two windows: the front end's hop, so that a clip has at most as many windows as frames."""


@dataclass(frozen=True)
class Windows:
    """How clips are cut into windows."""

    seconds: float
    """Length of a window."""
    overlap: float = 0.0
    """How much of a window, in seconds, the next one covers, too."""

    def __post_init__(self) -> None:
        for name, value in (("window", self.seconds), ("overlap", self.overlap)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
                raise ValueError(f"{name} must be a number of seconds, got {quote(value)}")
        if not MIN_SECONDS <= self.seconds <= MAX_MS / 1000:
            raise ValueError(f"window must be {MIN_SECONDS:g} to {MAX_MS / 1000:g} seconds, got {self.seconds:g}")
        if not self.overlap >= 0 or self.step < MIN_STEP_SECONDS * SAMPLE_RATE:
            raise ValueError(
                f"overlap must be at least 0 and, for windows of {self.seconds:g} s, at most "
                f"{self.seconds - MIN_STEP_SECONDS:g} s, got {self.overlap:g}"
            )

    @property
    def samples(self) -> int:
        """Samples of a window, at 16 kHz."""
        return round(self.seconds * SAMPLE_RATE)

    @property
    def step(self) -> int:
        """Samples from the start of a window to that of the next."""
        return self.samples - round(self.overlap * SAMPLE_RATE)

    def bounds(self, samples: int) -> Iterator[tuple[int, int]]:
        """Yield where the windows of a clip begin and end, in samples.

        The last window ends at the clip's end, so it covers more of the one before it. A clip that is not longer than
        a window is one window.

        Args:
            samples: Length of the clip.
        """
        start = 0
        while start + self.samples < samples:
            yield start, start + self.samples
            start += self.step
        yield max(0, samples - self.samples), samples

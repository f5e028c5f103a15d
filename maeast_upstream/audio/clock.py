"""Finds what is missing between the decoded frames of a file, by their time stamps."""

from maeast_upstream.audio.backends import MAX_GAP_SECONDS
from maeast_upstream.audio.frames import Frame

JITTER_SECONDS = 0.005
"""Containers round time stamps to ms: a smaller step between two frames is no hole."""
HOLE_SECONDS = 0.05
"""Holes in the time stamps are filled when they add up to this; at once where a packet could not be decoded."""
LARGE_STEP_SECONDS = 1.0
"""A single time stamp that is this far off is taken for wrong, and stamps that go back this far for another file's."""


class Clock:
    """Compares the time stamps of frames with the sound before them."""

    def __init__(self, exact: bool) -> None:
        """Begin before the first frame; ``exact`` as in `open_pyav`."""
        self._expected: float | None = 0.0 if exact else None
        """Time stamp that the next frame has if nothing is missing; None before the first."""
        self._least = JITTER_SECONDS if exact else HOLE_SECONDS
        self._filled = self._behind = 0.0
        """Silence so far, and how much later the last frame is in its time stamps than in the samples, in seconds."""

    def hole(self, frame: Frame, following: Frame | None) -> float:
        """Return how many seconds are missing before a frame; 0 if nothing, negative if its time stamp goes back."""
        lost = frame.lost * frame.seconds
        if self._expected is None:
            self._expected = (frame.stamp or 0.0) + frame.seconds
            return lost
        step = 0.0 if frame.stamp is None else frame.stamp - self._expected
        self._expected += frame.seconds
        if abs(step) > LARGE_STEP_SECONDS and following is not None and following.stamp is not None:
            wrong = abs(following.stamp - self._expected) < LARGE_STEP_SECONDS  # this stamp only
            step = 0.0 if wrong else step
        self._expected += step
        self._behind += step
        least = JITTER_SECONDS if frame.broken else self._least
        if self._behind < -LARGE_STEP_SECONDS or (step > JITTER_SECONDS and self._behind > least):
            behind, self._behind = self._behind, 0.0
            return behind + lost if behind > 0 else behind
        return lost

    def fill(self, hole: float) -> bool:
        """Tell whether a hole of so many seconds is to be filled with silence, and count it."""
        if hole > MAX_GAP_SECONDS - self._filled:
            return False
        self._filled += hole
        return True

"""The time steps of recordings of any length, in bounded memory: audio is embedded in windows that overlap."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maeast_upstream.data.windows import Windows
from maeast_upstream.extract.table import Embedded, EmbeddingSpec
from maeast_upstream.readout import Readout

if TYPE_CHECKING:  # imported when they are needed, so that a finished output loads no torch
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.extract.pipeline import Decoded, FailedInput

STEP_WINDOWS = Windows(10.0, 1.0)
"""How recordings are cut; of an overlap each window gives its half. With windows of a minute, whose
time steps have positions that short recordings have not, half as many onsets are found: docs/results/events.md."""


@dataclass(frozen=True, kw_only=True)
class StepSpec(EmbeddingSpec):
    """Time steps of windows. A table of them would have the steps of overlaps twice; `OwnSteps` leaves those out."""

    def __post_init__(self) -> None:
        """Allow windows, which a table of time steps does not."""


def step_readout(encoder: "Encoder", layer: int | str | None = None, mel: str | None = None) -> Readout:
    """Return how time steps are read: the checkpoint's layer and mel axis, every 40 ms, or 20 ms of frame models."""
    from maeast_upstream.time_grid import FINE_HOP_MS

    own = encoder.config.readout
    hop_ms = FINE_HOP_MS if encoder.config.model.patch_frames == 16 else None
    return Readout(layer=layer or own.layer, mel=mel or own.mel, hop_ms=hop_ms)  # type: ignore[arg-type]  # checked


def step_spec(readout: Readout) -> StepSpec:
    """Return the spec of a job that reads time steps."""
    return StepSpec(kind="frames", readouts=(readout,), windows=STEP_WINDOWS)


def step_hop_ms(encoder: "Encoder", readout: Readout) -> float:
    """Return the distance of time steps in ms."""
    return encoder.grid(readout.hop_ms).hop_samples * 1000 / encoder.sample_rate


class OwnSteps:
    """Chooses, window by window, the time steps that no other window of the recording gives."""

    def __init__(self, hop_ms: float) -> None:
        """Begin with the first window of a recording.

        Args:
            hop_ms: Distance of time steps.
        """
        self._hop_ms = hop_ms
        self._next_ms = -np.inf

    def slice_of(self, window: Embedded) -> slice:
        """Return which of a window's steps count: from where the window before it ended to the middle of the overlap.

        The windows of a recording must come one after the other; behind the last one the next recording begins.
        """
        times = window.times_ms
        first = int(np.searchsorted(times, self._next_ms))
        if window.is_last:
            self._next_ms = -np.inf
            return slice(first, len(times))
        last = int(np.searchsorted(times, window.end_ms - 500 * STEP_WINDOWS.overlap))
        # the last window of a recording ends with it, so that its steps may lie between those of the others
        self._next_ms = float(times[last - 1]) + self._hop_ms / 2
        return slice(first, last)


def embed_steps(
    decoded: "Iterable[Decoded]", encoder: "Encoder", readout: Readout
) -> "Iterator[tuple[Embedded, slice] | FailedInput]":
    """Embed the time steps of segments.

    Args:
        decoded: Segments with their samples, or with the reason why they could not be read.
        encoder: In eval mode.
        readout: See `step_readout`.

    Yields:
        Windows of each segment with the slice of their steps that counts, or that a segment or a window failed.
    """
    from maeast_upstream.extract.pipeline import FailedInput, embed_decoded

    hop_ms = step_hop_ms(encoder, readout)
    own = OwnSteps(hop_ms)
    for outcome in embed_decoded(decoded, encoder, step_spec(readout)):
        if isinstance(outcome, FailedInput):
            own = OwnSteps(hop_ms) if outcome.is_last else own
            yield outcome
        else:
            yield outcome, own.slice_of(outcome)


def with_context(steps: np.ndarray, offsets: tuple[int, ...]) -> np.ndarray:
    """Put the neighbours of time steps beside them: (T, R) -> (T, O * R); the ends are repeated.

    Args:
        steps: Consecutive time steps of a recording.
        offsets: O distances in time steps, such as (-2, 0, 2).
    """
    rows = np.arange(len(steps))
    return np.concatenate([steps[np.clip(rows + offset, 0, len(steps) - 1)] for offset in offsets], axis=1)

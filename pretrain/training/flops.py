"""How much arithmetic a training step is, and how much this device does at its best."""

import time

import torch
from numpy.polynomial import Polynomial
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES
from pretrain.config import Recipe
from pretrain.objective import Objective

SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices whose product is timed."""
BACKWARD = 2
"""The backward pass multiplies twice what the forward pass does."""


class StepFlops:
    """Floating point operations of forward and backward for waveforms of a shape, counted without computing them.

    Counting takes a quarter of a second, so where each batch draws another length (``data.max_crop_seconds``) three
    lengths are counted, and those between lie on the parabola that attention makes of it, within rounding.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._shapes = FakeTensorMode()  # tensors without values
        with self._shapes:
            self._objective = Objective(recipe, Normalisation()).eval()  # no layer is dropped
        self._known: dict[int, float] = {}
        self._curve: Polynomial | None = None
        shortest, longest = recipe.data.crop_seconds, recipe.data.max_crop_seconds
        if longest is not None:
            steps = {self._steps(round(SAMPLE_RATE * (shortest + (longest - shortest) * at))) for at in (0, 0.5, 1)}
            counted = {number: self._count(number) for number in sorted(steps)}
            self._curve = Polynomial.fit(list(counted), list(counted.values()), len(counted) - 1)

    def __call__(self, rows: int, samples: int) -> int:
        """For (rows, samples) waveforms; what the front end does is not counted, nor that a clip loss compares rows."""
        steps = self._steps(samples)
        if self._curve is not None:
            return round(rows * float(self._curve(steps)))
        if steps not in self._known:
            self._known[steps] = self._count(steps)
        return round(rows * self._known[steps])

    def _steps(self, samples: int) -> int:
        """Time steps of a row."""
        return ((samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1) // self.recipe.model.patch_frames

    def _count(self, steps: int) -> float:
        """Of a row of so many time steps."""
        model, rows = self.recipe.model, 2  # as many as a clip loss and two passes need
        # as plain products, because the counter does not know a CPU's fused attention
        with self._shapes, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            patches = torch.empty(rows * self.recipe.passes, steps * model.mel_patches, model.patch_dim)
            self._objective(patches, *self._objective.draw_batch(patches, torch.Generator()))
        return (1 + BACKWARD) * int(counter.get_total_flops()) / rows


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, measured in a fraction of a second."""
    side = SIDE.get(device.type, 1024)
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        one @ other
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

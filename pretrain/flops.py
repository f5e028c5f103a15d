"""How much arithmetic a training step is, and how much this device does at its best."""

import time

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import HOP_SAMPLES, WINDOW_SAMPLES
from pretrain.config import Recipe
from pretrain.objective import Objective

SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices whose product is timed."""
BACKWARD = 2
"""The backward pass multiplies twice what the forward pass does."""


class StepFlops:
    """Floating point operations of forward and backward for waveforms of a shape, counted without computing them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._shapes = FakeTensorMode()  # tensors without values
        with self._shapes:
            self._objective = Objective(recipe, Normalisation()).eval()  # no layer is dropped
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, rows: int, samples: int) -> int:
        """For (rows, samples) waveforms; what the front end does is not counted."""
        if (rows, samples) not in self._known:
            self._known[rows, samples] = self._count(rows, samples)
        return self._known[rows, samples]

    def _count(self, rows: int, samples: int) -> int:
        model = self.recipe.model
        frames = (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        tokens = frames // model.patch_frames * model.mel_patches
        # as plain products, because the counter does not know a CPU's fused attention
        with self._shapes, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            patches = torch.empty(rows * self.recipe.passes, tokens, model.patch_dim)
            self._objective(patches, *self._objective.draw_batch(patches, torch.Generator()))
        return (1 + BACKWARD) * int(counter.get_total_flops())


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

"""Dropout on a CPU: torch draws one float per value for its mask and stores it as floats, this one 16 random bits.

The probability is therefore rounded to a multiple of 1 / 65,536.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 1 << 16
"""The number of probabilities that 16 bits can express."""
PER_WORD = 4
"""Values whose 16 bits come from one random number of 64 bits."""


class Dropout(nn.Dropout):
    """``nn.Dropout`` with the mask of `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """(...) -> (...), any shape; unchanged in eval mode."""
        return dropout(input, self.p) if self.training else input


def dropout(x: Tensor, probability: float) -> Tensor:
    """Set values to 0 with ``probability`` and divide the others by its complement, with torch's default generator."""
    steps = round(probability * STEPS)
    if steps == 0:
        return x
    if x.device.type != "cpu" or type(x) is not Tensor or torch.compiler.is_compiling() or steps == STEPS:
        return F.dropout(x, probability)
    out: Tensor = _Dropout.apply(x, steps)  # type: ignore[no-untyped-call, unused-ignore]  # typed from torch 2.14 on
    return out


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        kept = random_kept(x.shape, steps)
        ctx.save_for_backward(kept)
        ctx.scale = STEPS / (STEPS - steps)
        return _masked(x, kept, ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _masked(gradients[0], kept, ctx.scale), None


def _masked(x: Tensor, kept: Tensor, scale: float) -> Tensor:
    return kept.to(x.dtype).mul_(scale).mul_(x)


def random_kept(shape: Sequence[int], steps: int) -> Tensor:
    """A random uint8 mask of a shape: 0 with a probability of ``steps`` / STEPS, otherwise 1.

    It is not bool, because torch converts bool to float, and fills by it, without vector instructions.
    """
    count = math.prod(shape)
    words = torch.empty(-(-count // PER_WORD), dtype=torch.int64).random_(-(1 << 63), None)
    kept: Tensor = words.view(torch.int16)[:count].view(*shape) >= steps - STEPS // 2
    return kept.view(torch.uint8)

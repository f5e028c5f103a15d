"""One Triton kernel for what follows each half of a transformer block: the sum, its layer norm, and the cast.

Torch needs three kernels for them, which read and write 24 bytes per value of a bf16 network; this one 12.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn


def add_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Normalize x + y over its last dimension.

    Args:
        x: (..., D) float32, contiguous.
        y: (..., D) bfloat16 or float16, contiguous.
        norm: of width D, with float32 weights.

    Returns:
        (..., D) float32, and the same in the type of ``y``.
    """
    result, half = torch.empty_like(x), torch.empty_like(y)
    columns = x.shape[-1]
    rows = x.numel() // columns
    block = triton.next_power_of_2(columns)
    _add_norm[(rows,)](x, y, norm.weight, norm.bias, result, half, columns, norm.eps, BLOCK=block)
    return result, half


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(x_at, y_at, weight_at, bias_at, result_at, half_at, columns, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """One row of ``columns`` values."""
    column = tl.arange(0, BLOCK)
    inside = column < columns
    place = tl.program_id(0).to(tl.int64) * columns + column
    total = tl.load(x_at + place, mask=inside, other=0.0)
    total += tl.load(y_at + place, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, total - tl.sum(total, axis=0) / columns, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    weight = tl.load(weight_at + column, mask=inside, other=0.0)
    bias = tl.load(bias_at + column, mask=inside, other=0.0)
    result = centred * scale * weight + bias
    tl.store(result_at + place, result, mask=inside)
    tl.store(half_at + place, result.to(half_at.dtype.element_ty), mask=inside)

"""Attention with dropout on a CPU, for which torch has no fused kernel.

Torch applies each operation to all (B, H, n, N) attention weights, which pass through memory every time. Here a few
heads at a time go through all operations while their weights are in the cache.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from maeast_upstream.modules.cpu.dropout import STEPS, random_kept

CACHED_WEIGHTS = 1 << 20
"""Attention weights processed at once: 4 MB in float32, two heads of 10 s of patches with mask tokens."""


def attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, probability: float) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q: (B, H, n, C) queries.
        k: (B, H, N, C) keys.
        v: (B, H, N, C) values.
        key_mask: (B, 1, 1, N) bool, True at the keys that may be attended to, at least one per clip; None for all.
        probability: of dropping an attention weight.

    Returns:
        (B, H, n, C).
    """
    steps = round(probability * STEPS)
    plain = type(q) is Tensor and q.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or steps in (0, STEPS):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask, dropout_p=probability)
    B, H = q.shape[:2]
    if key_mask is not None:
        key_mask = key_mask.expand(B, H, 1, -1).reshape(B * H, 1, -1)
    rows = (part.reshape(B * H, *part.shape[2:]) for part in (q, k, v))
    out: Tensor = _DroppedAttention.apply(*rows, key_mask, steps)  # type: ignore[no-untyped-call, unused-ignore]  # typed from torch 2.14 on
    return out.view(B, H, *out.shape[1:])


class _DroppedAttention(torch.autograd.Function):
    """`attention` with clips and heads in one dimension R = B * H."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, steps: int) -> Tensor:
        R, n, C = q.shape
        ctx.scale, ctx.upscale = C**-0.5, STEPS / (STEPS - steps)
        weights = q.new_empty(R, n, k.shape[1])
        kept = torch.empty(weights.shape, dtype=torch.uint8)
        out = q.new_empty(R, n, v.shape[2])
        with torch.autocast("cpu", enabled=False):
            for rows in _row_blocks(weights):
                w = torch.baddbmm(weights[rows], q[rows], k[rows].mT, beta=0, alpha=ctx.scale, out=weights[rows])
                if key_mask is not None:
                    w.masked_fill_(~key_mask[rows], torch.finfo(w.dtype).min)
                torch.softmax(w, dim=-1, out=w)
                kept[rows] = random_kept(w.shape, steps)
                used = kept[rows].to(w.dtype).mul_(w)
                torch.baddbmm(out[rows], used, v[rows], beta=0, alpha=ctx.upscale, out=out[rows])
        ctx.save_for_backward(q, k, v, weights, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        (out,) = gradients
        of_q, of_k, of_v = (torch.empty_like(part) for part in (q, k, v))
        with torch.autocast("cpu", enabled=False):
            for rows in _row_blocks(weights):
                w = weights[rows]
                mask = kept[rows].to(w.dtype)
                used = mask * w
                torch.baddbmm(of_v[rows], used.mT, out[rows], beta=0, alpha=ctx.upscale, out=of_v[rows])
                of_w = torch.baddbmm(used, out[rows], v[rows].mT, beta=0, alpha=ctx.upscale, out=used).mul_(mask)
                scores = torch.ops.aten._softmax_backward_data(of_w, w, -1, w.dtype)
                torch.baddbmm(of_q[rows], scores, k[rows], beta=0, alpha=ctx.scale, out=of_q[rows])
                torch.baddbmm(of_k[rows], scores.mT, q[rows], beta=0, alpha=ctx.scale, out=of_k[rows])
        return of_q, of_k, of_v, None, None


def _row_blocks(weights: Tensor) -> list[slice]:
    """The rows of R that are processed together."""
    count = max(1, CACHED_WEIGHTS // max(1, weights.shape[1] * weights.shape[2]))
    return [slice(first, first + count) for first in range(0, len(weights), count)]

"""Multi-head self-attention and cross-attention."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from maeast_upstream.modules.cpu.attention import attention
from maeast_upstream.modules.cpu.linear import Linear
from maeast_upstream.modules.packing import PackedRow

FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_HEAD_MULTIPLE, FLASH_HEAD_MAX = 8, 256
"""Widths of a head that flash attention supports: multiples of the first up to the second."""
FLASH_CAPABILITY = (8, 0)
"""The oldest GPUs that flash attention supports: Ampere."""


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None = None,
        num_context: int = 0,
        packed: PackedRow | None = None,
    ) -> Tensor:
        """Attend to all tokens, or in packed sequences to those of the same clip.

        Args:
            x: (B, N, D) tokens.
            key_mask: (B, 1, 1, N) bool, True at the tokens that may be attended to; None for all of them.
            num_context: the first tokens, which are keys and values only and give no output.
            packed: in place of ``key_mask``, with B = 1: the clips of the row.

        Returns:
            (B, N - num_context, D).
        """
        qkv, probability = self.qkv(x), self.dropout if self.training else 0.0
        if packed is None:
            y = self_attention(qkv, self.num_heads, key_mask, probability, num_context)
        else:
            y = packed_attention(qkv, self.num_heads, packed, probability)
        out: Tensor = self.out(y)
        return out


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to others, the memory. Source: CrossMAE, arXiv 2401.14391."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, key_mask: Tensor | None, memory: Tensor) -> Tensor:
        """(B, n, D), (B, K, D) memory -> (B, n, D); ``key_mask`` (B, 1, 1, K) is True where memory is attended to."""
        (q,) = split_heads(self.q(x), 1, self.num_heads)
        k, v = split_heads(self.kv(memory), 2, self.num_heads)
        y = attention(q, k, v, key_mask, self.dropout if self.training else 0.0)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * D) -> one (B, H, N, D / H) view for each of the parts."""
    B, N, width = x.shape
    return x.view(B, N, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4).unbind(0)


def self_attention(
    qkv: Tensor, num_heads: int, key_mask: Tensor | None = None, probability: float = 0.0, num_context: int = 0
) -> Tensor:
    """Attention of (B, N, 3 * D) queries, keys and values -> (B, N - num_context, D); arguments as in `Attention`."""
    q, k, v = split_heads(qkv, 3, num_heads)
    return attention(q[:, :, num_context:], k, v, key_mask, probability).transpose(1, 2).flatten(2)


def packed_attention(qkv: Tensor, num_heads: int, row: PackedRow, probability: float = 0.0) -> Tensor:
    """Attention within each clip of a packed row.

    Args:
        qkv: (1, N, 3 * D) queries, keys and values.
        num_heads: H.
        row: the clips.
        probability: of dropping an attention weight.

    Returns:
        (1, N, D).
    """
    if qkv.device.type == "cpu":
        return attention_by_clip(qkv, num_heads, row, probability)
    if row.equal:
        return attention_of_equal_clips(qkv, num_heads, row, probability)
    kernel = varlen_kernel(qkv.device, qkv.dtype, qkv.shape[-1] // 3 // num_heads)
    if kernel is None or probability:  # it has no dropout
        return attention_of_padded_clips(qkv, num_heads, row, probability)
    return attention_by_kernel(qkv, num_heads, row, kernel)


def attention_by_clip(qkv: Tensor, num_heads: int, row: PackedRow, probability: float = 0.0) -> Tensor:
    """`packed_attention` clip by clip: on a CPU each clip then stays in its cache."""
    clips = torch.split(qkv, row.tokens, dim=1)
    return torch.cat([self_attention(clip, num_heads, None, probability) for clip in clips], dim=1)


def attention_of_equal_clips(qkv: Tensor, num_heads: int, row: PackedRow, probability: float = 0.0) -> Tensor:
    """`packed_attention` where all clips have the same number of tokens: the row is a batch without padding."""
    batch = qkv.view(len(row.tokens), row.longest, -1)
    return self_attention(batch, num_heads, None, probability).reshape(1, qkv.shape[1], -1)


def attention_of_padded_clips(qkv: Tensor, num_heads: int, row: PackedRow, probability: float = 0.0) -> Tensor:
    """`packed_attention` with the clips padded to the longest one, for the attention only."""
    padded = qkv.new_zeros(len(row.tokens) * row.longest, qkv.shape[-1]).index_copy(0, row.slots, qkv[0])
    batch = padded.view(len(row.tokens), row.longest, -1)
    attended = self_attention(batch, num_heads, row.key_mask, probability)
    return attended.flatten(0, 1).index_select(0, row.slots)[None]


def attention_by_kernel(qkv: Tensor, num_heads: int, row: PackedRow, kernel: Callable[..., Tensor]) -> Tensor:
    """`packed_attention` by a kernel with the arguments of ``torch.nn.attention.varlen.varlen_attn``."""
    q, k, v = qkv[0].view(len(qkv[0]), 3, num_heads, -1).unbind(1)  # (N, H, D / H) each
    return kernel(q, k, v, row.bounds, row.bounds, row.longest, row.longest).flatten(1)[None]


@functools.cache
def varlen_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> Callable[..., Tensor] | None:
    """Torch's flash attention for clips of varying lengths (torch 2.10 and later); None where it cannot be used."""
    fits = dtype in FLASH_DTYPES and head_dim % FLASH_HEAD_MULTIPLE == 0 and head_dim <= FLASH_HEAD_MAX
    if device.type != "cuda" or not fits or torch.cuda.get_device_capability(device) < FLASH_CAPABILITY:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn  # type: ignore[return-value]

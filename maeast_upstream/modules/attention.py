"""Multi-head self-attention and cross-attention."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maeast_upstream.modules.cpu.attention import attention
from maeast_upstream.modules.cpu.linear import Linear


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | Sequence[int] | None = None, first: int = 0) -> Tensor:
        """(B, N, D) -> (B, N - first, D): the tokens before ``first`` are looked at only.

        ``attend`` (B, 1, 1, N) is True at the keys that may be looked at; or the tokens of each clip, where clips lie
        side by side and each looks at itself only.
        """
        qkv = split_heads(self.qkv(x), 3, self.num_heads)
        if attend is None or isinstance(attend, Tensor):
            y = self._attention((qkv[0][:, :, first:], *qkv[1:]), attend)
        else:
            clips = zip(*(torch.split(part, list(attend), dim=2) for part in qkv), strict=True)
            y = torch.cat([self._attention(clip, None) for clip in clips], dim=1)
        out: Tensor = self.out(y.flatten(2))
        return out

    def _attention(self, qkv: Sequence[Tensor], attend: Tensor | None) -> Tensor:
        """Three (B, H, n, D / H) -> (B, n, H, D / H)."""
        q, k, v = qkv
        return attention(q, k, v, attend, self.dropout if self.training else 0.0).transpose(1, 2)


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to others, the memory. Source: CrossMAE, arXiv 2401.14391."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, attend: Tensor | None, memory: Tensor) -> Tensor:
        """(B, n, D), (B, K, D) memory -> (B, n, D); ``attend`` (B, 1, 1, K) is True where it may be looked at."""
        (q,) = split_heads(self.q(x), 1, self.num_heads)
        k, v = split_heads(self.kv(memory), 2, self.num_heads)
        y = attention(q, k, v, attend, self.dropout if self.training else 0.0)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * D) -> as many (B, H, N, D / H) views."""
    B, N, width = x.shape
    return x.view(B, N, parts, num_heads, width // parts // num_heads).permute(2, 0, 3, 1, 4).unbind(0)

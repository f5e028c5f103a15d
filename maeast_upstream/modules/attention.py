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

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None = None,
        num_context: int = 0,
        packed: Sequence[int] | None = None,
    ) -> Tensor:
        """Attend to all tokens, or in packed sequences to those of the same clip.

        Args:
            x: (B, N, D) tokens.
            key_mask: (B, 1, 1, N) bool, True at the tokens that may be attended to; None for all of them.
            num_context: the first tokens, which are keys and values only and give no output.
            packed: in place of ``key_mask``: the number of tokens of each clip in a row of several clips.

        Returns:
            (B, N - num_context, D).
        """
        q, k, v = split_heads(self.qkv(x), 3, self.num_heads)
        if packed is None:
            y = self._attention((q[:, :, num_context:], k, v), key_mask)
        else:
            clips = zip(*(torch.split(part, list(packed), dim=2) for part in (q, k, v)), strict=True)
            y = torch.cat([self._attention(clip, None) for clip in clips], dim=1)
        out: Tensor = self.out(y.flatten(2))
        return out

    def _attention(self, qkv: Sequence[Tensor], key_mask: Tensor | None) -> Tensor:
        """(B, H, n, D / H) queries, (B, H, N, D / H) keys and values -> (B, n, H, D / H)."""
        q, k, v = qkv
        return attention(q, k, v, key_mask, self.dropout if self.training else 0.0).transpose(1, 2)


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

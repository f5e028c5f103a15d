"""Fixed sinusoidal position embeddings."""

import math

import torch
from torch import Tensor, nn

from maeast_upstream.modules.packing import PackedRow

POSITION_BASE = 10_000.0

STORED_POSITIONS = 4096
"""Rows of the stored table: 80 s of patch tokens. The rows of longer inputs are computed when they are needed."""

BLOCK_ROWS = 256
"""Rows that are compared at once: few enough to stay in a cache, which makes it three times as fast."""


def sinusoid(num_tokens: int, dim: int, first: int = 0) -> Tensor:
    """(num_tokens, dim) float32 positions: sine at even, cosine at odd channels. Source: the published code."""
    index = torch.arange(first, first + num_tokens).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(POSITION_BASE) / dim))
    return torch.stack([torch.sin(index * rate), torch.cos(index * rate)], dim=-1).flatten(1)


def is_sinusoid(table: Tensor, tolerance: float) -> bool:
    """Whether a (rows, dim) table is `sinusoid`, up to an absolute tolerance; NaN is not."""
    dim = table.shape[1]
    blocks = ((first, table[first : first + BLOCK_ROWS].float()) for first in range(0, len(table), BLOCK_ROWS))
    # subtracted and measured in place: a seventh of the time of torch.allclose
    return all(sinusoid(len(block), dim, first).sub_(block).abs_().amax() <= tolerance for first, block in blocks)


class Positions(nn.Module):
    """Adds a fixed sinusoid over the flat token index; holds no weights."""

    table: Tensor

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer(
            "table",
            sinusoid(STORED_POSITIONS if kind == "sinusoid" else 0, dim),
            persistent=False,
        )

    def forward(self, x: Tensor, packed: PackedRow | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); in a row of ``packed`` clips the positions of each clip start at 0."""
        if self.kind == "none":
            return x
        if packed is None:
            return x + self._rows(x.shape[1], x.device)
        rows = self._rows(packed.longest, x.device)
        return x + torch.cat([rows[:tokens] for tokens in packed.tokens])

    def at(self, x: Tensor, index: Tensor, num_tokens: int) -> Tensor:
        """Add positions to tokens that are not in order or not all there.

        Args:
            x: (B, n, D) tokens.
            index: (B, n) int64, their positions.
            num_tokens: above every position.

        Returns:
            (B, n, D).
        """
        return x if self.kind == "none" else x + self._rows(num_tokens, x.device)[index]

    def _rows(self, tokens: int, device: torch.device) -> Tensor:
        if tokens <= len(self.table):
            return self.table[:tokens]
        return sinusoid(tokens, self.table.shape[1]).to(device)

"""Fixed sinusoidal position embeddings."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

POSITION_BASE = 10_000.0


STORED_POSITIONS = 4096
"""Rows of the sinusoid kept ready: 80 s of patch tokens; more are computed when a longer input asks for them."""


def sinusoid(num_tokens: int, dim: int) -> Tensor:
    """(num_tokens, dim) float32 positions: sine at even, cosine at odd channels. Source: the published code."""
    index = torch.arange(num_tokens).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(POSITION_BASE) / dim))
    return torch.stack([torch.sin(index * rate), torch.cos(index * rate)], dim=-1).flatten(1)


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

    def forward(self, x: Tensor, side_by_side: Sequence[int] | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D); ``side_by_side`` as in `MaeAst.features`: each clip counts from its own start."""
        if self.kind == "none":
            return x
        if side_by_side is None:
            return x + self._rows(x.shape[1], x.device)
        rows = self._rows(max(side_by_side), x.device)
        return x + torch.cat([rows[:tokens] for tokens in side_by_side])

    def at(self, x: Tensor, index: Tensor, num_tokens: int) -> Tensor:
        """(B, n, D) tokens that stand at the places (B, n) ``index`` of ``num_tokens`` -> (B, n, D)."""
        return x if self.kind == "none" else x + self._rows(num_tokens, x.device)[index]

    def _rows(self, tokens: int, device: torch.device) -> Tensor:
        if tokens <= len(self.table):
            return self.table[:tokens]
        return sinusoid(tokens, self.table.shape[1]).to(device)

"""Low-rank adapters: linear layers keep their weights and learn a product of two thin matrices beside them (LoRA).

Source: Hu et al., arXiv 2106.09685; its scale alpha / rank is 1 here.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankLinear(nn.Module):
    """A linear layer whose weight W has become W + up @ down, of which only the product is trained."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        """Put an adapter beside a layer, which computes the same as before until the adapter is trained.

        Args:
            linear: The layer; its parameters no longer require gradients.
            rank: Rows of ``down`` and columns of ``up``, which is 0.
            generator: Of ``down``.
        """
        super().__init__()
        self.linear = linear.requires_grad_(False)
        bound = 1 / math.sqrt(linear.in_features)
        down = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(linear.weight))
        self.up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        out: Tensor = self.linear(input)
        return out + F.linear(F.linear(input, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Add the product to the layer's weight, and return the layer."""
        self.linear.weight += self.up @ self.down
        return self.linear


def add_adapters(blocks: Sequence[nn.Module], rank: int, seed: int) -> None:
    """Put an adapter beside each linear layer of transformer blocks: those of the attention and the feed-forward ones.

    Args:
        blocks: Of the encoder.
        rank: Of the adapters.
        seed: Of their random matrices.

    Raises:
        ValueError: The rank is above that of a layer's weight.
    """
    generator = torch.Generator().manual_seed(seed)
    for parent, name, child in list(_children(blocks)):
        if isinstance(child, nn.Linear):
            if rank > (limit := min(child.in_features, child.out_features)):
                raise ValueError(f"lora must be at most {limit}, the width of the model, got {rank}")
            setattr(parent, name, LowRankLinear(child, rank, generator))


def merge_adapters(blocks: Sequence[nn.Module]) -> None:
    """Put ordinary layers, their weights with the adapters' products added, in place of those with adapters."""
    for parent, name, child in list(_children(blocks)):
        if isinstance(child, LowRankLinear):
            setattr(parent, name, child.merged())


def _children(blocks: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield each module inside of blocks: what it is part of, its name there, and the module."""
    for block in blocks:
        for parent in block.modules():
            for name, child in parent.named_children():
                yield parent, name, child

"""Post-norm transformer blocks and stacks of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maeast_upstream.modules.attention import Attention, CrossAttention
from maeast_upstream.modules.cpu.dropout import Dropout
from maeast_upstream.modules.cpu.linear import Linear
from maeast_upstream.modules.packing import PackedRow

INIT_STD = 0.02
"""BERT's initialisation, in the two transformer stacks only."""


class DropoutRates(NamedTuple):
    """Probabilities of dropout in a transformer block."""

    hidden: float = 0.0
    """After the attention and after the feed-forward layer."""
    attention: float = 0.0
    """Of attention weights."""
    activation: float = 0.0
    """After the activation of the feed-forward layer."""


class TransformerBlock(nn.Module):
    """A post-norm transformer layer: x = LN(x + attention(x)); x = LN(x + ffn(x)), with exact GELU."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, rates: DropoutRates, cross: bool = False) -> None:
        super().__init__()
        self.attention = (CrossAttention if cross else Attention)(dim, num_heads, rates.attention)
        self.attention_norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, ffn_dim)
        self.fc2 = Linear(ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(rates.hidden)
        self.activation_dropout = Dropout(rates.activation)

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None = None,
        num_context: int = 0,
        packed: PackedRow | None = None,
        memory: Tensor | None = None,
    ) -> Tensor:
        """Run the layer.

        Args:
            x: (B, N, D) tokens.
            key_mask: see `Attention` and `CrossAttention`.
            num_context: see `Attention`.
            packed: see `Attention`.
            memory: (B, K, D) tokens to attend to, where the layer has cross-attention.

        Returns:
            (B, N - num_context, D).
        """
        queries = x[:, num_context:]
        if memory is None:
            y = self.attention(x, key_mask, num_context, packed)
        else:
            y = self.attention(queries, key_mask, memory)
        x = self.attention_norm(queries + self.dropout(y))
        y = self.fc2(self.activation_dropout(F.gelu(self.fc1(x))))
        out: Tensor = self.ffn_norm(x + self.dropout(y))
        return out


class TransformerStack(nn.Module):
    """A layer norm, dropout, then `depth` post-norm blocks: the shape of both encoder and decoder."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        depth: int,
        rates: DropoutRates,
        *,
        cross: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(rates.hidden)
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, ffn_dim, rates, cross) for _ in range(depth))
        self.checkpoint_activations = checkpoint_activations
        self.apply(_init_linear)

    def forward(
        self,
        x: Tensor,
        layerdrop: float = 0.0,
        padding: Tensor | None = None,
        memory: Tensor | None = None,
        num_context: int = 0,
    ) -> Tensor:
        """The last layer's output; what pretraining uses.

        Args:
            x: (B, N, D) tokens.
            layerdrop: the probability with which each block is skipped in train mode.
            padding: (B, N) bool, True at tokens that no other token attends to; of ``memory`` with cross-attention.
            memory: (B, K, D) tokens to attend to, where the stack has cross-attention.
            num_context: the first tokens, whose output is not needed: the last layer does not compute it.

        Returns:
            (B, N - num_context, D).
        """
        key_mask = None if padding is None else ~padding[:, None, None, :]
        x = self.dropout(self.norm(x))
        num_outputs = x.shape[1] - num_context
        for number, block in enumerate(self.blocks, start=1):
            if not (self.training and layerdrop and torch.rand(()).item() < layerdrop):
                is_last = number == len(self.blocks)
                x = self._run(block, x, key_mask, num_context if is_last else 0, None, memory)
        return x[:, x.shape[1] - num_outputs :]

    def layers(
        self, x: Tensor, padding: Tensor | None, keep: Sequence[int], packed: PackedRow | None = None
    ) -> list[Tensor]:
        """The outputs of the layers in ``keep`` (counted from 1, ascending); nothing above the last is computed."""
        key_mask = None if padding is None else ~padding[:, None, None, :]
        x = self.dropout(self.norm(x))
        kept = []
        for number, block in enumerate(self.blocks[: keep[-1]], start=1):
            x = self._run(block, x, key_mask, 0, packed, None)
            if number in keep:
                kept.append(x)
        return kept

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        key_mask: Tensor | None,
        num_context: int,
        packed: PackedRow | None,
        memory: Tensor | None,
    ) -> Tensor:
        """One block; its activations are computed again in the backward pass if the model's config says so."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            result: Tensor = checkpoint(block, x, key_mask, num_context, packed, memory, use_reentrant=False)
        else:
            result = block(x, key_mask, num_context, packed, memory)
        return result


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)

"""The encoder for inference in bf16 or fp16, with weights that are cast once.

``torch.autocast`` casts frozen weights again in every call, each with a kernel of its own. Here the matrices and their
biases are cast when they are first used, and again after they changed. The rest is what autocast does, to the bit on a
CPU: products and attention in half precision, layer norms and the sums between them in float32. Two things differ. On a
GPU a fused kernel adds and normalizes, which changes the rounding of float32. And a model without positions has float32
sums on a CPU, too, where autocast leaves its tokens in half precision.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maeast_upstream.messages import shortened
from maeast_upstream.modules.attention import Attention, packed_attention, self_attention
from maeast_upstream.modules.cpu.dropout import Dropout
from maeast_upstream.modules.cpu.linear import Linear
from maeast_upstream.modules.packing import PackedRow
from maeast_upstream.modules.positions import Positions
from maeast_upstream.modules.transformer import TransformerBlock, TransformerStack

KNOWN_MODULES = (Attention, Dropout, Linear, nn.LayerNorm, nn.ModuleList, TransformerBlock, TransformerStack)
"""What an encoder consists of; with anything else in it, such as an adapter, its own code must run."""

log = logging.getLogger(__name__)

AddNorm = Callable[[Tensor, Tensor, nn.LayerNorm], tuple[Tensor, Tensor]]
"""(..., D) float32 x and half-precision y -> the layer norm of x + y in float32 and in the precision of y."""


class _Product(NamedTuple):
    """The weights of a linear layer in half precision."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Linear, dtype: torch.dtype) -> "_Product":
        return cls(layer.weight.detach().to(dtype), layer.bias.detach().to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Block:
    """A transformer block with half-precision products."""

    def __init__(self, block: TransformerBlock, dtype: torch.dtype) -> None:
        attention = block.attention
        assert isinstance(attention, Attention), "an encoder's blocks have no cross-attention"
        self.num_heads = attention.num_heads
        self.qkv, self.out = _Product.of(attention.qkv, dtype), _Product.of(attention.out, dtype)
        self.fc1, self.fc2 = _Product.of(block.fc1, dtype), _Product.of(block.fc2, dtype)
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm

    def __call__(
        self, x: Tensor, half: Tensor, key_mask: Tensor | None, packed: PackedRow | None, add_norm: AddNorm
    ) -> tuple[Tensor, Tensor]:
        """(B, N, D) float32 tokens and the same in half precision -> those of the next layer."""
        qkv = self.qkv(half)
        if packed is None:
            y = self_attention(qkv, self.num_heads, key_mask)
        else:
            y = packed_attention(qkv, self.num_heads, packed)
        x, half = add_norm(x, self.out(y), self.attention_norm)
        return add_norm(x, self.fc2(F.gelu(self.fc1(half))), self.ffn_norm)


class HalfEncoder:
    """`MaeAst.features` in eval mode and without gradients."""

    def __init__(self, embed: Linear, positions: Positions, stack: TransformerStack, dtype: torch.dtype) -> None:
        """Cast the weights.

        Args:
            embed: the projection of patches to tokens.
            positions: their positions.
            stack: the transformer, see `can_cast`.
            dtype: bfloat16 or float16.
        """
        self.dtype, self.positions, self.norm = dtype, positions, stack.norm
        self.embed = _Product.of(embed, dtype)
        self.blocks = [_Block(block, dtype) for block in stack.blocks]  # type: ignore[arg-type]

    @torch.no_grad()
    def features(
        self, patches: Tensor, padding: Tensor | None, layers: Sequence[int], packed: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The outputs of ``layers``, which are ascending; arguments as of `MaeAst.features`."""
        key_mask = None if padding is None else ~padding[:, None, None, :]
        row = None if packed is None else PackedRow(packed, patches.device)
        add_norm = fused_add_norm(patches.device) or plain_add_norm
        kept = []
        with torch.autocast(patches.device.type, enabled=False):
            tokens = self.positions(self.embed(patches.to(self.dtype)), row)
            x = layer_norm(tokens.float(), self.norm)
            half = x.to(self.dtype)
            for number, block in enumerate(self.blocks[: layers[-1]], start=1):
                x, half = block(x, half, key_mask, row, add_norm)
                if number in layers:
                    kept.append(x)
        return kept


class _Watch:
    """Notices whether weights or the structure of modules changed, in about 0.1 ms for a base encoder."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self.children = [(module._modules, list(module._modules.values())) for module in modules if module._modules]
        self.weights = [module._parameters for module in modules if module._parameters]
        self.states = self._states()

    def _states(self) -> list[tuple[int, int]]:
        return [
            (each.data_ptr(), each._version)
            for weights in self.weights
            for each in weights.values()
            if each is not None
        ]

    def unchanged(self) -> bool:
        """Whether everything is as it was."""
        same_modules = all(list(now.values()) == then for now, then in self.children)
        return same_modules and not any(self.hooks) and self._states() == self.states


class HalfWeights:
    """The `HalfEncoder` of an encoder's weights as they are now."""

    def __init__(self) -> None:
        self._made: tuple[Linear, TransformerStack, HalfEncoder, _Watch] | None = None

    def current(
        self, embed: Linear, positions: Positions, stack: TransformerStack, dtype: torch.dtype
    ) -> HalfEncoder | None:
        """Cast the weights if they changed since the last call; None where the modules' own code must run."""
        if self._made is not None:
            for_embed, for_stack, encoder, watch = self._made
            if for_embed is embed and for_stack is stack and encoder.dtype == dtype and watch.unchanged():
                return encoder
        self._made = None  # first, so that both are not in memory at the same time
        modules = [embed, *stack.modules()]
        if not can_cast(modules):
            return None
        with torch.inference_mode(False):  # what it makes could not be used outside of it
            encoder = HalfEncoder(embed, positions, stack, dtype)
        self._made = embed, stack, encoder, _Watch(modules)
        return encoder

    def __deepcopy__(self, memo: object) -> "HalfWeights":
        """Copy nothing: a copied model casts its own weights. Pickling does the same."""
        return HalfWeights()

    def __reduce__(self) -> tuple[type["HalfWeights"], tuple[()]]:
        return HalfWeights, ()


def can_cast(modules: Sequence[nn.Module]) -> bool:
    """Whether casting keeps the meaning of modules: they are the encoder's own, without hooks, their weights plain."""
    plain = all(
        type(module) in KNOWN_MODULES and not module._forward_hooks and not module._forward_pre_hooks
        for module in modules
    )
    weights = [weight for module in modules for weight in module._parameters.values()]
    return plain and all(type(weight) is nn.Parameter and not weight.is_inference() for weight in weights)


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """(..., D) float32 -> its layer norm; unlike a call of ``norm``, it runs no hooks."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def plain_add_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """`AddNorm` by torch's own kernels."""
    result = layer_norm(x + y, norm)
    return result, result.to(y.dtype)


@functools.cache
def fused_add_norm(device: torch.device) -> AddNorm | None:
    """`AddNorm` in one kernel; None on a CPU, and where Triton is missing or cannot compile."""
    if device.type != "cuda":
        return None
    try:
        from maeast_upstream.modules.cuda.add_norm import add_norm

        x = torch.zeros(1, 8, device=device)
        add_norm(x, x.bfloat16(), nn.LayerNorm(8, device=device))
    except Exception as error:  # Triton raises types of its own, also where no C compiler is at hand
        log.info("no fused kernel for layer norms, torch's own replace it: %s", shortened(error))
        return None
    return add_norm

"""int8 products for OpenVINO: which layers compute in int8, with which weights, and their rounding in torch.

A weight is int8 with one scale per output channel. An input is rounded while the model runs, with one scale for each
group of a token's values, so that a clip's numbers do not depend on the other clips of its batch. Both are symmetric:
the largest magnitude becomes 127. Nothing is calibrated.
"""

import copy
import logging
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maeast_upstream.engines.graph import trial_batch
from maeast_upstream.inference import BatchEncoder
from maeast_upstream.model import MaeAst, ModelConfig

LARGEST = 127
MIN_COSINE = 0.9991
"""Minimum cosine of a token with float32 after each layer of the imitation; the engine itself is held to 0.999."""
MAX_GROUP, GROUP_STEP = 256, 16
"""Values that share a scale: at most, and in multiples that OpenVINO supports. With all 768 of a base model in a group
its products take 3 % less time, but an outlier makes the rounding of more values coarse."""

Weights = dict[str, tuple[np.ndarray, np.ndarray]]
"""The (out, in) int8 weight and the (out, 1) float32 scales of a linear layer, by its name in the encoder's stack, such
as ``blocks.3.attention.qkv``."""

log = logging.getLogger(__name__)


def group_size(config: ModelConfig) -> int:
    """How many values of a token share a scale; 0 where no size divides the widths, and inputs stay as they are."""
    common = math.gcd(config.embed_dim, config.ffn_dim)
    return max((size for size in range(GROUP_STEP, MAX_GROUP + 1, GROUP_STEP) if common % size == 0), default=0)


@torch.no_grad()
def int8_weights(encoder: BatchEncoder, last: int | None = None) -> Weights:
    """The weights of the layers, up to ``last``, that compute in int8; a line in the log names those that do not.

    The layers run one behind the other on `trial_batch`, exactly and with int8 products. Where a token's cosine falls
    below `MIN_COSINE`, because of outliers among weights or activations, the layer keeps its precision.
    """
    network, group = encoder.network, group_size(encoder.config.model)
    patches, padding = trial_batch(encoder)
    key_mask = ~padding[:, None, None, :]
    tokens = network.encoder.norm(network.encoder_positions(network.patch_embed(patches)))
    exact = rounded = tokens
    weights: Weights = {}
    kept = []
    for number, block in enumerate(network.encoder.blocks[:last]):
        exact = block(exact, key_mask)
        imitation, rounded_weights = imitate(block, group)
        output = imitation(rounded, key_mask)
        if F.cosine_similarity(exact[~padding], output[~padding], dim=-1).min() >= MIN_COSINE:
            weights |= {f"blocks.{number}.{name}": pair for name, pair in rounded_weights.items()}
        else:
            kept.append(number + 1)
            output = block(rounded, key_mask)
        rounded = output
    if kept:
        log.warning("int8 would change the outputs of layers %s too much: they keep a higher precision", kept)
    return weights


def imitate(block: nn.Module, group: int) -> tuple[nn.Module, Weights]:
    """A copy of a block whose products are rounded as in int8, and its weights by name."""
    imitation = copy.deepcopy(block)
    weights: Weights = {}
    for name, module in imitation.named_modules():
        if isinstance(module, nn.Linear):
            stored, scale = quantized(module.weight)
            weights[name] = stored.numpy(), scale.numpy()
            module.weight.copy_(stored * scale)
            module.register_forward_pre_hook(lambda _, inputs: (rounded_groups(inputs[0], group),))
    return imitation, weights


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> int8 of the same shape, and the (out, 1) float32 scales to multiply it by."""
    scale = weight.abs().amax(1, keepdim=True) / LARGEST
    divisor = torch.where(scale > 0, scale, 1.0)
    return (weight / divisor).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def rounded_groups(x: Tensor, group: int) -> Tensor:
    """(..., width) rounded to 255 steps, whose size is that of each group of values; 0 leaves them as they are."""
    if group == 0:
        return x
    groups = x.reshape(*x.shape[:-1], -1, group)
    scale = groups.abs().amax(-1, keepdim=True) / LARGEST
    scale = torch.where(scale > 0, scale, 1.0)
    return ((groups / scale).round() * scale).reshape(x.shape)


def quantize(model: Any, network: MaeAst, weights: Weights) -> None:
    """Replace the weights of an ``ov.Model``: int8 constants that are converted and multiplied by their scales.

    They are found by their values, because a model that was read from ONNX has other names and transposes them.

    Raises:
        ValueError: The model lacks one of these weights.
    """
    from openvino import opset13 as ops

    left = {name: network.encoder.get_parameter(f"{name}.weight").numpy() for name in weights}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        constant = node.input_value(1).get_node().data
        constant = constant if node.get_attributes()["transpose_b"] else constant.T
        found = next((name for name, weight in left.items() if same(weight, constant)), None)
        if found is not None:
            del left[found]
            stored, scale = weights[found]
            weight = ops.multiply(ops.convert(ops.constant(stored), "f32"), ops.constant(scale))
            product = ops.matmul(node.input_value(0), weight, transpose_a=False, transpose_b=True)
            node.output(0).replace(product.output(0))
    if left:
        raise ValueError(f"the converted model lacks the weight {min(left)}")


def same(weight: np.ndarray, other: np.ndarray) -> bool:
    """Whether two matrices are equal; most that are not differ in the first row already."""
    return weight.shape == other.shape and np.array_equal(weight[0], other[0]) and np.array_equal(weight, other)

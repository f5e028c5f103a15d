"""Floating-point operations of a training step by formula, and the rate that a device reaches at its best."""

import time
from dataclasses import dataclass

import torch

from maeast_upstream.frontend import HOP_SAMPLES, WINDOW_SAMPLES
from maeast_upstream.model import ModelConfig
from pretrain.config import LossConfig
from pretrain.masking.rules import num_masked
from pretrain.recipe import ObjectiveName

MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices whose product is timed."""
FORWARD_AND_BACKWARD = 3
"""The backward pass has twice the operations of the forward pass."""


@dataclass(frozen=True)
class StepFlops:
    """Counts the floating-point operations of the matrix products in forward and backward passes."""

    model: ModelConfig
    losses: LossConfig
    mask_ratio: float
    objective: ObjectiveName = "mae_ast"

    def __call__(self, crops: int, samples: int) -> int:
        """Operations for ``crops`` crops of ``samples`` samples, without the front end and the clip loss."""
        model, losses = self.model, self.losses
        frames = (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        tokens = frames // model.patch_frames * model.mel_patches
        masked = num_masked(tokens, self.mask_ratio)
        predicted = max(1, round(losses.masked_share * masked))
        heads = sum(weight > 0 for weight in (losses.reconstruction, losses.classification))
        logits = 2 * predicted**2 * model.patch_dim if losses.classification else 0
        if self.objective == "mae_ast":
            row = self._encoder(tokens - masked)
            if losses.predicts:
                head = 2 * predicted * model.decoder_dim * model.patch_dim
                row += self._decoder(tokens - masked, predicted) + heads * head + logits
            forward = 0
            if losses.latent:
                row += 2 * predicted * model.decoder_dim * model.embed_dim
                forward = self._encoder(predicted if losses.latent_input == "masked" else tokens)
            passes = 2 if losses.disjoint_views else 1
            return passes * crops * (FORWARD_AND_BACKWARD * row + forward)
        passes = 2 if self.objective == "ssast_two_pass" else 1
        head = 2 * predicted * model.embed_dim * (model.embed_dim + model.patch_dim)
        return FORWARD_AND_BACKWARD * crops * (passes * self._encoder(tokens) + heads * head + logits)

    def _encoder(self, tokens: int) -> int:
        """Patch embedding and encoder layers of one row."""
        model = self.model
        layer = layer_flops(tokens, tokens, tokens, model.embed_dim, model.ffn_dim)
        return 2 * tokens * model.patch_dim * model.embed_dim + model.depth * layer

    def _decoder(self, visible: int, predicted: int) -> int:
        """Decoder layers of one row."""
        model, tokens = self.model, visible + predicted
        dim, ffn_dim, depth = model.decoder_dim, model.decoder_ffn_dim, model.decoder_depth
        embed = 2 * visible * model.embed_dim * dim if dim != model.embed_dim else 0
        if model.decoder_attention == "cross":
            return embed + depth * layer_flops(predicted, predicted, visible, dim, ffn_dim)
        last = layer_flops(predicted, tokens, tokens, dim, ffn_dim)  # computes the predicted tokens only
        return embed + (depth - 1) * layer_flops(tokens, tokens, tokens, dim, ffn_dim) + last


def layer_flops(outputs: int, queries: int, keys: int, dim: int, ffn_dim: int) -> int:
    """Operations of a layer that projects ``queries`` and ``keys`` tokens and computes ``outputs`` tokens."""
    projections = 2 * dim**2 * (queries + 2 * keys + outputs)
    return projections + 4 * outputs * keys * dim + 4 * outputs * dim * ffn_dim


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, measured in a fraction of a second."""
    side = MATRIX_SIDE.get(device.type, 1024)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        left @ right
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

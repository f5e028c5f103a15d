"""Pictures of a run for its trackers: a reconstructed clip, and how often each token is masked. Needs no matplotlib."""

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.model import MaeAst
from pretrain.masking.rules import Grid, removal_frequency
from pretrain.masking.sampler import MaskSampler
from pretrain.reconstruction import reconstruct

MAP_ROWS = 2048
"""Masks over which the removal frequency is averaged."""
COLOURS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])
"""Five RGB points of matplotlib's magma, from low to high."""
GREY = 160
"""Brightness of masked tokens."""


def reconstruction_picture(network: MaeAst, patches: Tensor, visible: Tensor, masked: Tensor) -> np.ndarray:
    """A clip's spectrogram, its visible part, and its reconstruction, one above the other.

    Args:
        network: in eval mode.
        patches: (1, N, P) normalised patches.
        visible: (1, K) indices of the visible tokens.
        masked: (1, N - K) indices of the masked tokens.

    Returns:
        (height, width, 3) uint8.
    """
    result = reconstruct(network, patches, visible, masked)
    low, high = np.quantile(result.original, [0.02, 0.998])
    original, rebuilt = (coloured(values.T[::-1], low, high) for values in (result.original, result.rebuilt))
    visible_part = np.where(result.masked.T[::-1, :, None], GREY, original)
    gap = np.full((4, original.shape[1], 3), 255)
    return np.concatenate([original, gap, visible_part, gap, rebuilt]).astype(np.uint8)


def frequency_picture(sampler: MaskSampler, tokens: int, generator: torch.Generator, scale: int = 8) -> np.ndarray:
    """How often the sampler masks each of N tokens, as (height, width, 3) uint8: black is never, white is always."""
    mels = sampler.model.mel_patches
    grid = Grid(MAP_ROWS, tokens // mels, mels)
    frequency = removal_frequency(sampler.scores, grid, sampler.masking.expected_ratio, generator)
    image = coloured(frequency.T.flip(0).cpu().numpy(), 0.0, 1.0)
    return image.repeat(scale, 0).repeat(scale, 1).astype(np.uint8)


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(height, width) -> (height, width, 3) RGB from 0 to 255."""
    position = np.clip((values - low) / max(high - low, 1e-8), 0, 1) * (len(COLOURS) - 1)
    return np.stack([np.interp(position, np.arange(len(COLOURS)), channel) for channel in COLOURS.T], axis=-1)

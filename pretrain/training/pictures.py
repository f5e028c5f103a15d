"""Pictures of a run: a clip and its reconstruction, and how often each token is removed."""

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.model import unpatchify
from pretrain.objective import Objective

MAP_ROWS = 2048
"""Masks that a removal-frequency map is the mean of."""
COLOURS = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]])
"""From low to high: five points of matplotlib's magma."""
GREY = 160


def removal_frequency(objective: Objective, tokens: int, generator: torch.Generator) -> Tensor:
    """(T, M) share of masks that remove each token."""
    mel = objective.recipe.model.mel_patches
    patches = torch.empty(1, tokens, 1, device=generator.device).expand(MAP_ROWS, -1, -1)
    masked = objective.draw_masks(patches, generator)[1]
    counts = torch.zeros(tokens, device=masked.device)
    counts.scatter_add_(0, masked.flatten(), torch.ones_like(masked.flatten(), dtype=torch.float32))
    return (counts / MAP_ROWS).view(tokens // mel, mel)


@torch.no_grad()
def reconstruction(objective: Objective, patches: Tensor, masks: tuple[Tensor, ...]) -> np.ndarray:
    """Of the first row of a batch: the spectrogram, what the encoder sees, and what the decoder makes of it.

    Returns:
        (height, width, 3) uint8, the three one above the other.
    """
    model = objective.recipe.model
    visible, masked = (mask[:1] for mask in masks[:2])
    was_training = objective.training
    objective.eval()
    predicted = objective.network.predict(patches[:1], visible, masked).reconstruction.float()
    objective.train(was_training)
    index = masked[..., None].expand_as(predicted)
    filled = patches[:1].float().scatter(1, index, predicted)
    hidden = torch.zeros_like(filled).scatter(1, index, 1.0)
    original, filled, hidden = (unpatchify(x, model)[0].T.flip(0).cpu() for x in (patches[:1].float(), filled, hidden))
    low, high = torch.quantile(original.flatten()[:1_000_000], torch.tensor([0.02, 0.998])).tolist()
    whole, rebuilt = (coloured(x.numpy(), low, high) for x in (original, filled))
    seen = np.where(hidden.bool().numpy()[..., None], GREY, whole)
    gap = np.full((4, whole.shape[1], 3), 255)
    return np.concatenate([whole, gap, seen, gap, rebuilt]).astype(np.uint8)


def frequency_picture(frequency: Tensor, scale: int = 8) -> np.ndarray:
    """(T, M) shares -> (height, width, 3) uint8; black is 0, white is 1."""
    image = coloured(frequency.T.flip(0).cpu().numpy(), 0.0, 1.0)
    return image.repeat(scale, 0).repeat(scale, 1).astype(np.uint8)


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(height, width) -> (height, width, 3) of 0 to 255."""
    place = np.clip((values - low) / max(high - low, 1e-8), 0, 1) * (len(COLOURS) - 1)
    return np.stack(
        [np.interp(place, np.arange(len(COLOURS)), channel) for channel in COLOURS.T],
        axis=-1,
    )

"""Masks of clips that are padded to the longest clip of their batch; padding is neither visible nor predicted."""

import torch
from torch import Tensor

from maeast_upstream.frontend import num_frames
from maeast_upstream.model import ModelConfig
from pretrain.masking.rules import num_masked


def token_padding(lengths: Tensor, num_tokens: int, model: ModelConfig) -> Tensor:
    """(B,) samples -> (B, num_tokens) bool, True at tokens past a clip's last whole time step."""
    tokens = num_frames(lengths).clamp(min=0) // model.patch_frames * model.mel_patches
    return torch.arange(num_tokens, device=lengths.device) >= tokens.clamp(min=2)[:, None]


def fit_masks(
    visible: Tensor, masked: Tensor, padding: Tensor, mask_ratio: float, noise: Tensor, unseen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Fit masks that were drawn for whole rows to the valid tokens of each row.

    Each row gets the exact number of masked tokens that a clip of its length has. Where the drawn mask without the
    padding has another number, random tokens change between visible and masked.

    Args:
        visible: (B, K) indices of visible tokens.
        masked: (B, N - K) indices of all other tokens.
        padding: (B, N) bool, True where padded.
        mask_ratio: share of masked tokens.
        noise: (B, N) uniform random numbers in [0, 1).
        unseen: (B, U) indices of tokens that must be masked, at most as many as are masked.

    Returns:
        The same shapes. In a row with padding, both are filled up with indices of its padding.
    """
    scores = noise.scatter_add(1, visible, torch.ones_like(noise).gather(1, visible))  # masked below 1, visible above
    if unseen is not None:
        scores = scores.scatter(1, unseen, -1.0)
    valid = (~padding).sum(dim=1, keepdim=True)
    rank = scores.masked_fill(padding, torch.inf).argsort(dim=1).argsort(dim=1)  # padding ranks last
    count = valid - ((1.0 - mask_ratio) * valid.double()).long().clamp(min=1)  # masked tokens of each row
    fill = num_masked(padding.shape[1], mask_ratio) - count  # padding among the masked indices
    group = torch.where(rank < count, 0, torch.where(rank < valid, 2, torch.where(rank - valid < fill, 1, 3)))
    order = group.argsort(dim=1, stable=True)
    return order[:, masked.shape[1] :], order[:, : masked.shape[1]]


def fit_disjoint_masks(
    visible: Tensor, masked: Tensor, padding: Tensor, mask_ratio: float, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """`fit_masks` for two views of each clip that share no visible token: first all first views, then all second ones.

    The mask ratio must be at least a half.
    """
    (seen, other_seen), (hidden, other_hidden) = visible.chunk(2), masked.chunk(2)
    (padded, other_padded), (uniform, other_uniform) = padding.chunk(2), noise.chunk(2)
    first = fit_masks(seen, hidden, padded, mask_ratio, uniform)
    second = fit_masks(other_seen, other_hidden, other_padded, mask_ratio, other_uniform, unseen=first[0])
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])


def share_of_masked(masked: Tensor, padding: Tensor, share: float, noise: Tensor) -> Tensor:
    """Choose a random share of the masked tokens of each padded row.

    Args:
        masked: (B, n) indices of masked tokens, filled up with indices of padding, see `fit_masks`.
        padding: (B, N) bool, True where padded.
        share: share of each row's masked tokens that are no padding; at least one is chosen.
        noise: (B, N) uniform random numbers in [0, 1).

    Returns:
        (B, share * n) indices, filled up with padding.
    """
    absent = padding.gather(1, masked)
    valid = (~absent).sum(dim=1, keepdim=True)
    rank = noise.gather(1, masked).masked_fill(absent, torch.inf).argsort(dim=1).argsort(dim=1)
    kept = (rank < (share * valid.double()).round().clamp(min=1)) & ~absent
    order = torch.where(kept, 0, torch.where(absent, 1, 2)).argsort(dim=1, stable=True)
    return masked.gather(1, order[:, : max(1, round(share * masked.shape[1]))])

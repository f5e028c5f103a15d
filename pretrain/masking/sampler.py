"""Draws the masks of a batch. A row's mask does not depend on how many processes share the batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from maeast_upstream.model import ModelConfig
from pretrain.config import LossConfig, MaskConfig
from pretrain.masking.mask_types import MASK_TYPES
from pretrain.masking.padding import fit_disjoint_masks, fit_masks, share_of_masked, token_padding
from pretrain.masking.published import spans_official, spans_official_scores
from pretrain.masking.rules import (
    Grid,
    make_disjoint,
    mixed_scores,
    num_masked,
    split_visible_masked,
    subsample_masked,
)

BLOCK_ROWS = {"cpu": 64, "cuda": 2048}
"""Rows of the whole batch whose masks are drawn together, from one seed.

Few on a CPU, because a process also draws the masks of other processes' rows in its blocks; many on a GPU, because each
draw launches about 50 kernels.
"""


class Masks(NamedTuple):
    """The masks of B rows with N tokens each, in the order of `Objective.forward`'s arguments."""

    visible: Tensor
    """(B, K) int64 indices of the tokens that the encoder sees."""
    masked: Tensor
    """(B, n) int64 indices of the masked tokens that are predicted."""
    padding: Tensor | None = None
    """(B, N) bool, True at tokens past a clip's end; None where no clip is padded."""


class BatchRows(NamedTuple):
    """Which rows of an update's whole batch a micro-batch holds, view by view."""

    clips: int
    """Clips of the micro-batch."""
    first: int
    """Index of its first clip in the whole batch."""
    total: int
    """Clips of the whole batch."""
    views: int
    """Rows of each clip. The views of clip i are rows i * views to (i + 1) * views - 1 of the whole batch."""

    def indices(self) -> Tensor:
        """(views * clips,) index of each row in the whole batch."""
        clips = torch.arange(self.first, self.first + self.clips)
        return torch.cat([clips * self.views + view for view in range(self.views)])


class MaskSampler:
    """Draws the masks that a recipe describes."""

    def __init__(self, masking: MaskConfig, losses: LossConfig, model: ModelConfig) -> None:
        self.masking, self.losses, self.model = masking, losses, model

    def sample(
        self, rows: BatchRows, num_tokens: int, seed: Sequence[int], device: torch.device, lengths: Tensor | None = None
    ) -> Masks:
        """The masks of a micro-batch.

        Args:
            rows: which rows of the whole batch.
            num_tokens: N.
            seed: with the index of a row in the whole batch it decides the row's mask.
            device: where masks are drawn; a CPU and a GPU draw different ones.
            lengths: (B,) samples of each row if some are padded, on the device.
        """
        block_rows = BLOCK_ROWS.get(device.type, BLOCK_ROWS["cpu"])
        if self.masking.spans_official_probability is not None:  # all rows are cut to the smallest number of tokens
            block_rows = rows.total * rows.views
        indices = rows.indices()
        first, last = int(indices.min()) // block_rows, int(indices.max()) // block_rows
        blocks = []
        for block in range(first, last + 1):
            count = min(block_rows, rows.total * rows.views - block * block_rows)
            generator = Generator(device).manual_seed(hash_seed(*seed, block))
            blocks.append(self._draw_block(count, num_tokens, generator, noise=lengths is not None))
        local = indices - first * block_rows
        if device.type == "cuda":  # through pinned memory, because the copy would otherwise wait for the device
            local = local.pin_memory().to(device, non_blocking=True)
        visible, masked, *noise = (torch.cat(drawn)[local] for drawn in zip(*blocks, strict=True))
        if lengths is None:
            return Masks(visible, masked)
        padding = token_padding(lengths, num_tokens, self.model)
        fit = fit_disjoint_masks if self.losses.disjoint_views else fit_masks
        visible, masked = fit(visible, masked, padding, self.masking.ratio, noise[0])
        if self.losses.masked_share < 1.0:
            masked = share_of_masked(masked, padding, self.losses.masked_share, noise[1])
        return Masks(visible, masked, padding)

    def draw(self, batch: int, num_tokens: int, generator: Generator) -> Masks:
        """Fresh masks for ``batch`` rows of N tokens, with all masked tokens.

        If the clip loss compares two masks of a clip, rows 2i and 2i + 1 have no visible token in common.
        """
        grid = Grid(batch, num_tokens // self.model.mel_patches, self.model.mel_patches)
        if (probability := self.masking.spans_official_probability) is not None:
            unpadded = torch.zeros(batch, num_tokens, dtype=torch.bool, device=generator.device)
            return Masks(*spans_official(num_tokens, probability, unpadded, generator))
        count = num_masked(num_tokens, self.masking.ratio)
        scores = self.scores(grid, self.masking.ratio, generator)
        if self.losses.disjoint_views:
            scores = make_disjoint(scores, count)
        return Masks(*split_visible_masked(scores, count))

    def scores(self, grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
        """(B, N) scores by the recipe's mix of mask types; the lowest of each row are to be masked."""
        if self.masking.spans_official_probability is not None:
            return spans_official_scores(grid, mask_ratio, generator)
        types = [(MASK_TYPES[name], share) for name, share in self.masking.shares.items()]
        return mixed_scores(types, grid, mask_ratio, generator)

    def _draw_block(self, batch: int, num_tokens: int, generator: Generator, noise: bool) -> list[Tensor]:
        """Visible and predicted tokens of each row; with ``noise`` all masked tokens and (B, N) uniform numbers."""
        visible, masked, _ = self.draw(batch, num_tokens, generator)
        partial = self.losses.masked_share < 1.0
        if partial and not noise:
            masked = subsample_masked(masked, self.losses.masked_share, generator)
        draws = 1 + partial if noise else 0
        uniform = [torch.rand(batch, num_tokens, generator=generator, device=generator.device) for _ in range(draws)]
        return [visible, masked, *uniform]


def hash_seed(*numbers: int) -> int:
    """One seed from several numbers (Knuth's multiplicative hash)."""
    value = 0
    for number in numbers:
        value = (value * 2654435761 + number + 1) % (1 << 63)
    return value

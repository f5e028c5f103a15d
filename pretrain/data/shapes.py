"""How many crops a batch has, and how long they are."""

import numpy as np

from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.config import DataConfig

DRAWN_LENGTHS = 16
"""Crop lengths of a run that draws them. Few, because each new shape costs a GPU's host: while every batch had another
length, tiny took 0.45 s for 2,048 s of crops on an H100; 2,560 s of one length took 0.04 s."""


def crop_shape(config: DataConfig, micro_batches: int, random: np.random.Generator) -> tuple[int, int]:
    """Samples of a crop and number of clips of a batch."""
    shapes = crop_shapes(config, micro_batches)
    return shapes[random.integers(len(shapes))] if config.max_crop_seconds is not None else shapes[0]


def crop_shapes(config: DataConfig, micro_batches: int) -> list[tuple[int, int]]:
    """The shapes of which each batch draws one; all hold about the same seconds."""
    shortest, longest = config.crop_seconds, config.max_crop_seconds
    if longest is None:
        return [(round(shortest * SAMPLE_RATE), config.batch_clips)]
    return [
        (round(seconds * SAMPLE_RATE), divisible_count(config.batch_clips * shortest / seconds, micro_batches))
        for seconds in np.geomspace(shortest, longest, DRAWN_LENGTHS).tolist()
    ]


def divisible_count(count: float, micro_batches: int) -> int:
    """About ``count`` clips that can be cut into equal micro-batches of at least two clips."""
    return max(2, round(count / micro_batches)) * micro_batches

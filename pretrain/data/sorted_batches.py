"""Batches as fairseq makes them: clips of like length, as many as fit, cut to the shortest clip of the batch.

Source: batch_by_size and ordered_indices of fairseq, with which MAE-AST was published. It counts samples as tokens.
"""

import logging

import numpy as np

from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.data_config import MIN_SORTED_CLIPS, DataConfig

logger = logging.getLogger(__name__)


class SortedBatches:
    """The batches of an epoch, which has every clip once; each epoch has the same batches in another order."""

    def __init__(self, lengths: np.ndarray, config: DataConfig, seed: int) -> None:
        """Sort the clips and cut them into batches.

        Args:
            lengths: (clips,) samples.
            config: gives batch_samples, max_counted_samples and the longest crop.
            seed: decides the order of clips of the same length, and of the batches of each epoch.

        Raises:
            ValueError: there are too few clips for a batch.
        """
        self.lengths, self.seed, self.longest = lengths, seed, round(config.crop_seconds * SAMPLE_RATE)
        ties = np.random.default_rng(seed).permutation(len(lengths))
        self.order = np.lexsort([ties, lengths])[::-1]
        counted = lengths[self.order].clip(max=config.max_counted_samples)
        self.edges = batch_edges(counted, config.batch_samples)
        if len(self.edges) < 2:
            raise ValueError(
                f"data.batch_by samples makes batches of at least {MIN_SORTED_CLIPS} clips, and there are "
                f"{len(lengths)}: give more audio, or data.batch_by clips"
            )
        if left_out := len(lengths) - self.edges[-1]:
            logger.warning("the %d shortest clips fill no batch of %d and are left out", left_out, MIN_SORTED_CLIPS)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.edges) - 1

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """The samples of a crop and the (count,) numbers of the clips of batch ``step`` of the run."""
        epoch, number = divmod(step, len(self))
        batch = np.random.default_rng((self.seed, epoch)).permutation(len(self))[number]
        clips = self.order[self.edges[batch] : self.edges[batch + 1]]
        return min(int(self.lengths[clips].min()), self.longest), clips


def batch_edges(counted: np.ndarray, batch_samples: int) -> np.ndarray:
    """(batches + 1,) int64: where the batches of sorted clips begin, and the last one ends.

    Each clip of a batch counts as much as the longest, and the batch takes as many as fit, down to a multiple of
    `MIN_SORTED_CLIPS`. The fewer clips than that which are left at the end are in no batch; fairseq makes one of them.

    Args:
        counted: (clips,) samples that a clip counts, in descending order.
        batch_samples: the most samples of a batch.
    """
    edges = [0]
    while (left := len(counted) - edges[-1]) >= MIN_SORTED_CLIPS:
        fit = min(batch_samples // int(counted[edges[-1]]), left)
        edges.append(edges[-1] + fit // MIN_SORTED_CLIPS * MIN_SORTED_CLIPS)
    return np.array(edges)

"""Which clip each row of a batch shows, for targets that belong to whole clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.data.batches import Batch

LEAST_SHARE = 0.5
"""Share of a joined crop that its first clip must fill for the crop to have the clip's targets."""


@dataclass(frozen=True)
class ClipRows:
    """Finds the clips of rows."""

    lengths: np.ndarray
    """(clips,) int64 samples of the clips of the corpus."""
    joined: bool
    """Whether a crop of a short clip is filled with other clips."""

    def clips(self, batch: Batch) -> np.ndarray:
        """(B,) int64 number of each row's clip; -1 where it has none, or where most of the row is of other clips."""
        shown = self._shown(np.array(batch.clips, np.int64), batch.waveforms.shape[1])
        return np.tile(shown, len(batch.starts) // max(1, len(shown)))

    def middles(self, batch: Batch) -> np.ndarray:
        """(B,) float64 seconds from the beginning of its clip to the middle of what each row shows of it."""
        clips = np.tile(np.array(batch.clips, np.int64), len(batch.starts) // max(1, len(batch.clips)))
        whole = self.lengths[clips]  # of any clip for -1, which has no target
        starts, shown = batch.starts.numpy(), np.minimum(batch.lengths.numpy(), whole)
        middles: np.ndarray = ((starts + shown / 2) % np.maximum(whole, 1)) / SAMPLE_RATE
        return middles

    def weights(self, batch: Batch, has_target: np.ndarray) -> Tensor:
        """(B, ...) float32 weight of each row's loss: 0 without a target, and otherwise the same for all rows.

        It is such that the mean over the rows of all micro-batches is that of the rows with a target. Each micro-batch
        knows the clips of the whole batch, so that processes need not ask each other.

        Args:
            batch: a micro-batch.
            has_target: (clips, ...) bool, which clips of the corpus have a target.
        """
        local, drawn = self.clips(batch), self._shown(np.array(batch.drawn, np.int64), batch.waveforms.shape[1])
        share = present(has_target, drawn).mean(axis=0, keepdims=True, dtype=np.float64)
        return torch.from_numpy((present(has_target, local) / np.maximum(share, 1e-12)).astype(np.float32))

    def _shown(self, clips: np.ndarray, samples: int) -> np.ndarray:
        """The numbers of clips, -1 where a joined crop of ``samples`` samples is mostly of other clips."""
        if not self.joined:
            return clips
        return np.where(self.lengths[clips] >= LEAST_SHARE * samples, clips, -1)


def present(has_target: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """(B, ...) bool, which of some clips have a target; -1 has none."""
    found: np.ndarray = has_target[clips] & (clips >= 0).reshape(-1, *[1] * (has_target.ndim - 1))
    return found

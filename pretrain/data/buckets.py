"""Length buckets: with short_clips pad, all clips of a batch are padded to one length."""

import numpy as np

from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.config import DataConfig
from pretrain.data.drawing import draw_clips
from pretrain.data.shapes import crop_shapes, divisible_count


class LengthBuckets:
    """The buckets of a corpus, and the random choice of a batch from one of them.

    A batch of short clips has more of them than a batch of long ones, so that each has the same seconds. Its bucket is
    therefore drawn less often, and each clip is drawn as often as its weight says.
    """

    def __init__(self, lengths: np.ndarray, weights: np.ndarray, config: DataConfig, micro_batches: int) -> None:
        """Sort the clips into buckets.

        Args:
            lengths: (clips,) samples.
            weights: (clips,) how often each clip is drawn.
            config: gives the number of buckets, the lengths of crops and the seconds of a batch.
            micro_batches: parts into which a batch must divide.
        """
        self.weights = weights
        longest = round(config.crop_seconds * SAMPLE_RATE)
        self.samples = bucket_lengths(lengths, longest, config.length_buckets)
        seconds = config.batch_clips * config.crop_seconds
        self.shapes = {
            samples: [(samples, divisible_count(seconds / (samples / SAMPLE_RATE), micro_batches))]
            for samples in np.unique(self.samples).tolist()
        }
        if longest in self.shapes and config.max_crop_seconds is not None:
            self.shapes[longest] = crop_shapes(config, micro_batches)
        counts = {samples: np.mean([count for _, count in shapes]) for samples, shapes in self.shapes.items()}
        self._bucket_weights = weights / np.vectorize(counts.__getitem__, otypes=[np.float64])(self.samples)

    def draw(self, random: np.random.Generator) -> tuple[int, int, np.ndarray]:
        """Samples of a row, number of clips, and the numbers of the clips of a batch."""
        bucket = int(self.samples[draw_clips(self._bucket_weights, 1, random)[0]])
        shapes = self.shapes[bucket]
        samples, count = shapes[random.integers(len(shapes))] if len(shapes) > 1 else shapes[0]
        return samples, count, draw_clips(self.weights * (self.samples == bucket), count, random)


def bucket_lengths(lengths: np.ndarray, longest: int, buckets: int) -> np.ndarray:
    """The length to which each clip is padded.

    Args:
        lengths: (clips,) samples.
        longest: the most samples of a row, to which longer clips are cropped.
        buckets: number of padded lengths, whose ratios are equal.
    """
    cut = lengths.clip(max=longest)
    edges = np.geomspace(cut.min(), longest, buckets + 1)[1:].round().astype(np.int64)
    edges[-1] = longest
    padded: np.ndarray = edges[edges.searchsorted(cut)]
    return padded

"""Mean and deviation of a corpus's log-mel spectrogram: the fixed normalisation of our own checkpoints."""

import torch

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import Fbank
from pretrain.data import CropBatches


def measure(crops: CropBatches, fbank: Fbank, num_batches: int = 16) -> Normalisation:
    """Over all bins and frames of ``num_batches`` batches as training draws them (gains and mixing included)."""
    total = torch.zeros(2, dtype=torch.float64)
    count = 0
    for step in range(num_batches):
        with torch.no_grad():
            values = fbank(crops[step]).double()
        total += torch.stack([values.sum(), values.square().sum()])
        count += values.numel()
    mean, square = (total / count).tolist()
    return Normalisation(mean=round(mean, 4), std=round((square - mean**2) ** 0.5, 4))

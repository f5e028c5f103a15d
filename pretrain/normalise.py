"""What the spectrogram is brought to before it is cut into patches, while training."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maeast_upstream.config import Normalisation

EPS, MOMENTUM = 1e-5, 0.1
"""Of the published BatchNorm2d over one channel."""


class Normaliser(nn.Module):
    """(x - mean) / std * scale, with the corpus's statistics or, as published, each batch's own.

    The latter keeps running ones for later, and takes the processes of a distributed run as one batch.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, kind: str, statistics: Normalisation) -> None:
        """``kind``: fixed or batch. ``statistics``: what is used, or what the running ones begin with."""
        super().__init__()
        self.kind, self.fixed = kind, statistics
        if kind == "batch":
            self.register_buffer("mean", torch.tensor(statistics.mean))
            self.register_buffer("var", torch.tensor(statistics.std**2))

    @property
    def statistics(self) -> Normalisation:
        """For a checkpoint."""
        if self.kind == "fixed":
            return self.fixed
        std = float((self.var.double() + EPS).sqrt())
        return Normalisation(mean=float(self.mean), std=std, scale=self.fixed.scale)

    def forward(self, fbank: Tensor, frames: Tensor | None = None) -> Tensor:
        """(B, frames, mels) -> the same; ``frames`` (B,) are each row's own where some are padded with zeros."""
        if self.kind == "fixed":
            return (fbank - self.fixed.mean) * (self.fixed.scale / self.fixed.std)
        if not self.training:
            return (fbank - self.mean) * (self.fixed.scale * (self.var + EPS).rsqrt())
        count = fbank.new_tensor(fbank.numel(), dtype=torch.float64)
        if frames is not None:
            count = frames.clamp(max=fbank.shape[1]).sum().double() * fbank.shape[2]
        # padding is zero and adds nothing to the sums; sums, because several processes add theirs
        sums = torch.stack([fbank.sum(dtype=torch.float64), fbank.double().square().sum(), count])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        mean, square, count = sums[0] / sums[2], sums[1] / sums[2], sums[2]
        var = square - mean.square()
        self.mean.lerp_(mean.float(), MOMENTUM)
        self.var.lerp_((var * count / (count - 1)).float(), MOMENTUM)
        return (fbank - mean.float()) * (self.fixed.scale * (var.float() + EPS).rsqrt())

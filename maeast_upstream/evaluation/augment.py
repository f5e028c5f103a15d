"""Augmentation for fine-tuning: SpecAugment, mixup and random gain."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maeast_upstream.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class SpecAugment:
    """Bands of a spectrogram that are hidden in training. Source: Park et al., arXiv 1904.08779."""

    frames: int = 0
    """Of 10 ms: the widest stretch of time; each clip draws its own width."""
    mels: int = 0
    """The widest band of the 128 mel bins."""

    def hidden(self, clips: int, frames: int, mels: int, generator: torch.Generator) -> Tensor:
        """(clips, frames, mels) bool, True where hidden: in each clip one stretch and one band."""
        time = _band(clips, frames, min(self.frames, frames), generator)
        return time[:, :, None] | _band(clips, mels, min(self.mels, mels), generator)[:, None, :]


def _band(clips: int, size: int, widest: int, generator: torch.Generator) -> Tensor:
    """(clips, size) bool: a band of 0 to ``widest`` places anywhere."""
    width = (torch.rand(clips, 1, generator=generator) * (widest + 1)).floor()
    first = (torch.rand(clips, 1, generator=generator) * (size - width + 1)).floor()
    place = torch.arange(size)
    return (place >= first) & (place < first + width)


class AugmentedEncoder(Encoder):
    """An encoder that hides bands of the spectrogram while it trains."""

    augment = SpecAugment()
    generator = torch.Generator()

    def patchify(self, fbank: Tensor) -> Tensor:
        """As of `Encoder`; what is hidden has the mean's value."""
        if self.training:
            B, frames, mels = fbank.shape
            hidden = self.augment.hidden(B, frames, mels, self.generator).to(fbank.device)
            fbank = fbank.masked_fill(hidden, self.config.normalisation.mean)
        return super().patchify(fbank)


def mix(
    clips: Sequence[Tensor], targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Mixup of waveforms: each clip with another of the batch, which goes round to its length.

    Args:
        clips: (S_i,) waveforms.
        targets: (B, classes) shares of the classes.
        alpha: of the Beta distribution of the share; 0 mixes nothing.
        generator: chance.

    Returns:
        The mixtures, as long as the first of the two each, and their (B, classes) shares. Source: arXiv 1710.09412.
    """
    if alpha == 0:
        return list(clips), targets
    order = torch.randperm(len(clips), generator=generator)
    # Beta(a, a) as a share of two gammas: torch's Beta takes no generator
    gammas = torch._standard_gamma(torch.full((2, len(clips)), alpha), generator=generator).clamp(min=1e-30)
    share = gammas[0] / gammas.sum(dim=0)
    others = [around(clips[int(other)], len(clip)) for clip, other in zip(clips, order, strict=True)]
    mixed = [s * clip + (1 - s) * other for s, clip, other in zip(share, clips, others, strict=True)]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[order]


def around(clip: Tensor, length: int) -> Tensor:
    """A clip again and again, cut to ``length`` samples."""
    return clip.repeat(-(-length // len(clip)))[:length]

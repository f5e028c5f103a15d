"""Augmentation for fine-tuning: SpecAugment and mixup."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maeast_upstream.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class SpecAugment:
    """Hides a segment of time and a band of mel bins of each spectrogram. Source: Park et al., arXiv 1904.08779."""

    frames: int = 0
    """Longest hidden segment, in frames of 10 ms; each clip draws its own length."""
    mels: int = 0
    """Widest hidden band of the 128 mel bins."""

    def hidden(self, clips: int, frames: int, mels: int, generator: torch.Generator) -> Tensor:
        """Draw what is hidden: (clips, frames, mels) bool, True in one segment and one band of each clip."""
        time = _band(clips, frames, min(self.frames, frames), generator)
        return time[:, :, None] | _band(clips, mels, min(self.mels, mels), generator)[:, None, :]


def _band(clips: int, size: int, widest: int, generator: torch.Generator) -> Tensor:
    """(clips, size) bool, True in a band of 0 to ``widest`` positions anywhere."""
    width = (torch.rand(clips, 1, generator=generator) * (widest + 1)).floor()
    first = (torch.rand(clips, 1, generator=generator) * (size - width + 1)).floor()
    position = torch.arange(size)
    return (position >= first) & (position < first + width)


class AugmentedEncoder(Encoder):
    """An encoder that applies SpecAugment in training mode."""

    augment = SpecAugment()
    generator = torch.Generator()

    def patchify(self, fbank: Tensor) -> Tensor:
        """Patchify like `Encoder`, after hiding parts of the spectrogram, which get the mean's value."""
        if self.training:
            B, frames, mels = fbank.shape
            hidden = self.augment.hidden(B, frames, mels, self.generator).to(fbank.device)
            fbank = fbank.masked_fill(hidden, self.config.normalisation.mean)
        return super().patchify(fbank)


def mix(
    clips: Sequence[Tensor], targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[list[Tensor], Tensor]:
    """Mix each waveform with another of the batch, which is repeated to its length (mixup).

    Args:
        clips: (S_i,) waveforms.
        targets: (B, classes) shares of the classes.
        alpha: parameter of the Beta distribution of the share; 0 mixes nothing.
        generator: source of the random numbers.

    Returns:
        The mixtures, each as long as its clip, and their (B, classes) shares. Source: arXiv 1710.09412.
    """
    if alpha == 0:
        return list(clips), targets
    order = torch.randperm(len(clips), generator=generator)
    # Beta(a, a) as a share of two gammas: torch's Beta takes no generator
    gammas = torch._standard_gamma(torch.full((2, len(clips)), alpha), generator=generator).clamp(min=1e-30)
    share = gammas[0] / gammas.sum(dim=0)
    others = [repeat_to(clips[int(other)], len(clip)) for clip, other in zip(clips, order, strict=True)]
    mixed = [s * clip + (1 - s) * other for s, clip, other in zip(share, clips, others, strict=True)]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[order]


def repeat_to(clip: Tensor, length: int) -> Tensor:
    """Repeat a clip, and cut it to ``length`` samples."""
    return clip.repeat(-(-length // len(clip)))[:length]

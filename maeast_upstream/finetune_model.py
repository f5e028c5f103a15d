"""What is fine-tuned: an encoder, mean pooling and a linear head; and how its training data are changed."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maeast_upstream import checkpoint
from maeast_upstream.encoder import Encoder, Precision, usable_device
from maeast_upstream.readout import Readout

READOUT = Readout(layer="last", mel="mean", pool="mean")
"""The mean over all tokens of the last layer. Source: arXiv 2203.16691, section 3.2."""


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


class Classifier(nn.Module):
    """Clips -> scores of the classes."""

    def __init__(self, encoder: AugmentedEncoder, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embed_dim, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)
        self.to(encoder.device)

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """(S_i,) waveforms at 16 kHz -> (B, classes) logits; a clip's do not depend on the others."""
        logits: Tensor = self.head(self.encoder.embed(clips, readout=READOUT))
        return logits

    def parameter_groups(self, lr: float, encoder_lr: float, layer_decay: float) -> list[dict[str, Any]]:
        """For the optimiser: the head at ``lr``; the last layer at ``encoder_lr``, each one below times the decay."""
        network = self.encoder.network
        below = [nn.ModuleList([network.patch_embed, network.encoder.norm]), *network.encoder.blocks]
        rates = [encoder_lr * layer_decay**distance for distance in reversed(range(len(below)))]
        groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in zip(below, rates, strict=True)]
        return [*groups, {"params": list(self.head.parameters()), "lr": lr}]


def load_encoder(
    source: str | None,
    device: str | None,
    precision: Precision,
    positions: Literal["sinusoid", "none"] | None,
    augment: SpecAugment,
) -> AugmentedEncoder:
    """A checkpoint's encoder to train on.

    Args:
        source: as in `load_model`.
        device: as in `load_model`.
        precision: as in `load_model`.
        positions: of the tokens; None for the checkpoint's own.
        augment: what is hidden in training.

    Raises:
        ValueError: as in `load_model`.
    """
    where = usable_device(device)
    loaded = checkpoint.read(checkpoint.resolve(source))
    config = loaded.config
    if positions is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, positions=positions))
    encoder = AugmentedEncoder(config, precision)
    encoder.network.load_state_dict(loaded.state)
    encoder.augment, encoder.generator = augment, torch.Generator()
    return encoder.to(where)


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


def one_hot(classes: Tensor, count: int) -> Tensor:
    """(B,) int64 -> (B, count) float."""
    return F.one_hot(classes, count).float()


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Every number below ``count`` once, in random batches."""
    order = torch.randperm(count, generator=generator).tolist()
    for first in range(0, count, size):
        yield order[first : first + size]

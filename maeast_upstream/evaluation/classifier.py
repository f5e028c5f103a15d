"""The classifier that is fine-tuned: an encoder, mean pooling and a linear head."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maeast_upstream import checkpoint
from maeast_upstream.device import usable_device
from maeast_upstream.encoder import Precision
from maeast_upstream.evaluation.augment import AugmentedEncoder, SpecAugment
from maeast_upstream.readout import Readout

READOUT = Readout(layer="last", mel="mean", pool="mean")
"""Mean over all tokens of the last layer. Source: arXiv 2203.16691, section 3.2."""


class FineTunedNetwork(nn.Module):
    """An encoder with a linear head, from waveforms to scores of the classes."""

    def __init__(self, encoder: AugmentedEncoder, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embed_dim, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)
        self.to(encoder.device)

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Classify (S_i,) waveforms at 16 kHz: (B, classes) logits; a clip's do not depend on the other clips."""
        logits: Tensor = self.head(self.encoder.embed_readouts(clips, [READOUT])[0])
        return logits

    def parameter_groups(self, lr: float, encoder_lr: float, layer_decay: float) -> list[dict[str, Any]]:
        """Group for the optimizer: the head at ``lr``, the last layer at ``encoder_lr``, each below times the decay."""
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
    """Load a checkpoint's encoder for training.

    Args:
        source: as in `load_model`.
        device: as in `load_model`.
        precision: as in `load_model`.
        positions: position embeddings of the tokens; None for the checkpoint's.
        augment: how spectrograms are augmented in training.

    Raises:
        ValueError: as in `load_model`.
    """
    target = usable_device(device)
    loaded = checkpoint.read(checkpoint.resolve(source))
    config = loaded.config
    if positions is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, positions=positions))
    encoder = AugmentedEncoder(config, precision)
    encoder.network.load_state_dict(loaded.state)
    encoder.augment, encoder.generator = augment, torch.Generator()
    return encoder.to(target)


def one_hot(classes: Tensor, count: int) -> Tensor:
    """Encode (B,) class numbers as (B, count) float."""
    return F.one_hot(classes, count).float()


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield every number below ``count`` once, in random batches of ``size``."""
    order = torch.randperm(count, generator=generator).tolist()
    for first in range(0, count, size):
        yield order[first : first + size]

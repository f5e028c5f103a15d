"""The classifier that is fine-tuned: an encoder, a readout, and a linear head on standardized vectors."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maeast_upstream import checkpoint
from maeast_upstream.classification.standardize import MAX_STANDARD_DEVIATIONS, Standardization
from maeast_upstream.device import usable_device
from maeast_upstream.encoder import Precision
from maeast_upstream.evaluation.adapters import add_adapters, merge_adapters
from maeast_upstream.evaluation.augment import AugmentedEncoder, SpecAugment
from maeast_upstream.evaluation.finetune_config import FinetuneConfig
from maeast_upstream.evaluation.saving import Head
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.readout import Readout


class FineTunedNetwork(nn.Module):
    """An encoder with a linear head on its standardized scene embeddings, from waveforms to scores of the classes."""

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: AugmentedEncoder, readout: Readout, classes: int) -> None:
        """Build it with a head of zeros, see `use_head`.

        Raises:
            ValueError: The encoder has no such layer, hop or projection.
        """
        super().__init__()
        self.encoder, self.readout = encoder, readout
        with torch.no_grad():
            width = encoder.eval().embed_readouts([torch.zeros(SAMPLE_RATE)], [readout])[0].shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(encoder.device)

    def vectors(self, clips: Sequence[Tensor]) -> Tensor:
        """Embed (S_i,) waveforms at 16 kHz: (B, E); a clip's vector does not depend on the other clips."""
        return self.encoder.embed_readouts(clips, [self.readout])[0]

    def standardized(self, vectors: Tensor) -> Tensor:
        """Standardize (B, E) vectors as `Classifier` does."""
        return ((vectors - self.mean) / self.scale).clamp(-MAX_STANDARD_DEVIATIONS, MAX_STANDARD_DEVIATIONS)

    def classify(self, vectors: Tensor) -> Tensor:
        """Classify (B, E) vectors: (B, classes) logits."""
        logits: Tensor = self.head(self.standardized(vectors))
        return logits

    def forward(self, clips: Sequence[Tensor]) -> Tensor:
        """Classify waveforms: (B, classes) logits."""
        return self.classify(self.vectors(clips))

    @torch.no_grad()
    def use_head(self, head: Head) -> None:
        """Copy a linear classifier of standardized vectors."""
        pairs = {
            self.mean: head.standardization.mean,
            self.scale: head.standardization.scale,
            self.head.weight: head.weight,
            self.head.bias: head.bias,
        }
        for tensor, values in pairs.items():
            tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)))

    @property
    def linear(self) -> Head:
        """The head with its standardization, float64."""
        mean, scale, weight, bias = (
            tensor.detach().cpu().double().numpy()
            for tensor in (self.mean, self.scale, self.head.weight, self.head.bias)
        )
        return Head(weight, bias, Standardization(mean, scale))

    def prepare_training(self, config: FinetuneConfig) -> list[dict[str, Any]]:
        """Decide which weights are trained, and group them for the optimizer.

        The head has ``lr``; the encoder's last layer, or its adapters, ``encoder_lr``, each layer below it that times
        the decay. All other weights require no gradients, and what precedes the first that does is computed without.

        Raises:
            ValueError: The model has fewer layers than are frozen, or is narrower than the adapters' rank.
        """
        network = self.encoder.network
        blocks, depth = network.encoder.blocks, self.encoder.num_layers
        if config.freeze > depth:
            raise ValueError(f"freeze must be at most {depth}, the layers of the model, got {config.freeze}")
        self.encoder.requires_grad_(False)
        parts = [nn.ModuleList([network.patch_embed, network.encoder.norm]), *blocks]
        # the patch projection is trained with all layers or not at all, and adapters are of layers only
        first = config.freeze + 1 if config.freeze or config.lora else 0
        trained = parts[first:] if config.encoder_rate else []
        if config.lora:
            add_adapters(trained, config.lora, config.seed)
        else:
            nn.ModuleList(trained).requires_grad_(True)
        groups = [
            {
                "params": [parameter for parameter in part.parameters() if parameter.requires_grad],
                "lr": config.encoder_rate * config.layer_decay**distance,
            }
            for part, distance in zip(trained, reversed(range(len(trained))), strict=True)
        ]
        self.to(self.encoder.device)
        return [*groups, {"params": list(self.head.parameters()), "lr": config.lr, "weight_decay": 0.0}]

    def merge(self) -> None:
        """Merge adapters, if there are any, into the encoder's weights."""
        merge_adapters(list(self.encoder.network.encoder.blocks))


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
    encoder.use_projection(loaded.projection)
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

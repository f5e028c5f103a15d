"""Masked tokens predict what a moving average of the encoder says about them.

Sources: data2vec, arXiv 2202.03555, for the targets; M2D, arXiv 2210.14648, for an average that sees masked tokens.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from maeast_upstream.model import MaeAst, gather_tokens
from pretrain.config import LossConfig
from pretrain.losses import latent_loss

FOLLOWED = ("patch_embed", "encoder_positions", "encoder")
"""Parts of the network that are averaged: what `MaeAst.features` uses."""


class Latent(nn.Module):
    """A moving average of a network's encoder, and the head that predicts its outputs from the decoder's.

    The average is part of the objective's state, so that a run resumes with it. It has no gradients and no dropout, and
    is not the encoder that ``optim.ema_decay`` keeps for use: its decay follows another schedule, from the first update
    on, and changes what is learned.
    """

    def __init__(self, network: MaeAst, losses: LossConfig) -> None:
        """Begin with the weights of a network.

        Args:
            network: whose encoder is followed.
            losses: the settings ``latent_...``.
        """
        super().__init__()
        self.losses = losses
        config = network.config
        self.average = nn.ModuleDict({name: copy.deepcopy(getattr(network, name)) for name in FOLLOWED})
        self.average.requires_grad_(False).eval()
        self.head = nn.Linear(config.decoder_dim, config.embed_dim)
        count = losses.latent_layers or -(-2 * config.depth // 3)
        self.layers = range(config.depth - count + 1, config.depth + 1)

    def train(self, mode: bool = True) -> "Latent":
        """Set the mode of the head; the average stays in eval mode."""
        super().train(mode)
        self.average.eval()
        return self

    def forward(self, decoded: Tensor, patches: Tensor, masked: Tensor, padding: Tensor | None = None) -> Tensor:
        """The loss of the predicted tokens.

        Args:
            decoded: (B, n, decoder_dim) outputs of the decoder at the tokens ``masked``.
            patches: (B, N, P) normalised patches.
            masked: (B, n) int64 indices of the tokens that are predicted.
            padding: (B, N) bool, True at tokens past a clip's end.
        """
        absent = None if padding is None else padding.gather(1, masked)
        return latent_loss(self.head(decoded), self.targets(patches, masked, padding), absent)

    @torch.no_grad()
    def targets(self, patches: Tensor, masked: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, n, D) float32 targets of the tokens ``masked``: the mean of the layers' outputs, each normalised."""
        parts: Any = self.average
        embed, positions, encoder = (parts[name] for name in FOLLOWED)
        if self.losses.latent_input == "masked":
            tokens = positions.at(embed(gather_tokens(patches, masked)), masked, patches.shape[1])
            outputs = encoder.layers(tokens, None if padding is None else padding.gather(1, masked), self.layers)
        else:
            outputs = encoder.layers(positions(embed(patches)), padding, self.layers)
            outputs = [gather_tokens(output, masked) for output in outputs]
        return torch.stack([F.layer_norm(x.float(), x.shape[-1:]) for x in outputs]).mean(dim=0)

    @torch.no_grad()
    def follow(self, network: MaeAst, decay: float) -> None:
        """Average = decay * average + (1 - decay) * weight, for each weight; a decay of 0 copies them."""
        averages = list(self.average.parameters())
        weights = [weight.detach() for name in FOLLOWED for weight in getattr(network, name).parameters()]
        get_ema_multi_avg_fn(decay)(averages, weights, None)  # type: ignore[no-untyped-call]

    def decay(self, step: int) -> float:
        """The decay after update ``step``, counted from 0. Source: data2vec, section 3.2."""
        first, last, steps = self.losses.latent_decay, self.losses.latent_end_decay, self.losses.latent_decay_steps
        return last - (last - first) * max(0.0, 1.0 - step / steps) if steps else last

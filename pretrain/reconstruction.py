"""Masks a clip, lets the decoder reconstruct it, and draws the spectrograms before and after."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.encoder import Encoder
from maeast_upstream.frontend import HOP_SAMPLES, LOW_HZ, SAMPLE_RATE, num_samples
from maeast_upstream.model import unpatchify

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)
CHUNK_SIDE = 3
"""Side of the squares that the mask "chunk" removes, in tokens."""


@dataclass(frozen=True)
class Reconstruction:
    """A clip before and after masking; (frames, mels) each."""

    original: np.ndarray
    """The log-mel spectrogram."""
    masked: np.ndarray
    """bool, True where a token was removed."""
    rebuilt: np.ndarray
    """The spectrogram with the decoder's predictions in place of the removed tokens."""

    @property
    def error(self) -> float:
        """Mean squared error of the removed part, as a share of its variance."""
        hidden = self.original[self.masked]
        return float(np.square(self.rebuilt[self.masked] - hidden).mean() / max(hidden.var(), 1e-8))


def reconstruct(
    encoder: Encoder,
    waveform: Tensor,
    mask_ratio: float,
    mask: str,
    generator: torch.Generator,
) -> Reconstruction:
    """Mask a clip and let the network predict the masked tokens.

    Args:
        encoder: must have a decoder.
        waveform: (S,) at 16 kHz; under one token it is zero-padded to one.
        mask_ratio: share of removed tokens.
        mask: "random" or "chunk".
        generator: draws the mask, on the CPU.

    Raises:
        ValueError: the checkpoint has no decoder, or the clip has one token only.
    """
    config = encoder.config.model
    if config.decoder_depth == 0:
        raise ValueError("this checkpoint has no decoder to reconstruct with; use one from pretraining")
    missing = max(0, num_samples(config.patch_frames) - len(waveform))
    patches = encoder.patches(torch.nn.functional.pad(waveform, (0, missing))[None])  # (1, N, P)
    scores = mask_scores(patches.shape[1] // config.mel_patches, config.mel_patches, mask, generator)
    if len(scores) < 2:
        raise ValueError("the clip is one token long: masking it would leave nothing to see; use a longer one")
    order = scores.argsort().to(encoder.device)
    count = min(max(round(mask_ratio * len(order)), 1), len(order) - 1)
    masked, visible = order[:count].sort().values, order[count:].sort().values
    with torch.no_grad():
        predicted = encoder.network.predict(patches, visible[None], masked[None]).reconstruction
    rebuilt = patches.index_copy(1, masked, predicted)
    where = torch.zeros_like(patches).index_fill(1, masked, 1.0)
    normalisation = encoder.config.normalisation
    original, hidden, filled = (unpatchify(x, config)[0].cpu().numpy() for x in (patches, where, rebuilt))
    scale = normalisation.std / normalisation.scale
    return Reconstruction(
        original * scale + normalisation.mean,
        hidden > 0,
        filled * scale + normalisation.mean,
    )


def mask_scores(steps: int, mel_patches: int, mask: str, generator: torch.Generator) -> Tensor:
    """Draw (N,) numbers of which the lowest are masked: one per token, or one per square of tokens."""
    side = CHUNK_SIDE if mask == "chunk" else 1
    squares = torch.rand(-(-steps // side), -(-mel_patches // side), generator=generator)
    scores = squares.repeat_interleave(side, 0).repeat_interleave(side, 1)[:steps, :mel_patches].flatten()
    # a second, tiny draw decides which tokens of the last square are masked
    return scores + 1e-6 * torch.rand(len(scores), generator=generator)


def draw(figure: "Figure", result: Reconstruction) -> None:
    """Draw three spectrograms, one above the other, on the same colour scale."""
    axes = figure.subplots(3, 1, sharex=True)
    low, high = np.percentile(result.original, [2, 99.8])
    frames, mels = result.original.shape
    pictures = (
        (result.original, "log-mel spectrogram"),
        (np.ma.array(result.original, mask=result.masked), "what the encoder sees"),
        (
            result.rebuilt,
            "reconstruction: visible tokens unchanged, masked tokens predicted",
        ),
    )
    for axis, (picture, name) in zip(axes, pictures, strict=True):
        axis.set_facecolor("0.8")
        image = axis.imshow(
            picture.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=low,
            vmax=high,
            extent=(0, frames * HOP_SAMPLES / SAMPLE_RATE, 0, mels),
            interpolation="nearest",
        )
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_yticks(
            [mel_bin(hz, mels) for hz in TICKS_HZ],
            [f"{hz / 1000:g}" for hz in TICKS_HZ],
        )
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="log energy", pad=0.01, aspect=40)


def mel_bin(hz: float, num_mel_bins: int) -> float:
    """Return where ``hz`` lies on an axis on which mel bin b reaches from b to b + 1, on Kaldi's mel scale."""
    low, high, mel = (math.log(1 + f / 700) for f in (LOW_HZ, SAMPLE_RATE / 2, hz))
    return min((mel - low) / (high - low) * (num_mel_bins + 1) - 0.5, float(num_mel_bins))

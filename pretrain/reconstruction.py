"""Masks a clip, lets the decoder reconstruct it, and draws the spectrograms before and after."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.encoder import Encoder
from maeast_upstream.frontend import HOP_SAMPLES, LOW_HZ, SAMPLE_RATE, num_samples
from maeast_upstream.model import MaeAst, unpatchify
from pretrain.masking.mask_types import MASK_TYPES
from pretrain.masking.rules import Grid, num_masked, split_visible_masked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)
MIN_VARIANCE = 0.01
"""Variance of log energies below which no percentage is given: a standard deviation of 0.4 dB."""
MAX_SHARE = 10.0
"""Share of the variance above which it is not given in per cent."""


@dataclass(frozen=True)
class Reconstruction:
    """A clip before and after masking; each array is (frames, mels)."""

    original: np.ndarray
    """The log-mel spectrogram."""
    masked: np.ndarray
    """bool, True where a token was removed."""
    rebuilt: np.ndarray
    """The spectrogram with the decoder's predictions in place of the removed tokens."""

    @property
    def variance(self) -> float:
        """Variance of the removed part."""
        return float(self.original[self.masked].var(dtype=np.float64))

    @property
    def squared_error(self) -> float:
        """Mean squared error of the removed part."""
        return float(np.square(self.rebuilt[self.masked] - self.original[self.masked]).mean(dtype=np.float64))

    @property
    def error(self) -> float:
        """Mean squared error of the removed part, as a share of its variance, of which there are at least 0.01."""
        return self.squared_error / max(self.variance, MIN_VARIANCE)

    def describe_error(self) -> str:
        """Describe the error in words: per cent of the variance, unless there is next to none, as in silence."""
        if self.variance < MIN_VARIANCE:
            return f"mean squared error {self.squared_error:.3g} of the masked tokens, which hardly vary (silence?)"
        if self.error > MAX_SHARE:
            return f"reconstruction error {self.error:.3g} times the variance of the masked tokens"
        return f"reconstruction error {self.error:.0%} of the variance of the masked tokens"


def reconstruct_clip(
    encoder: Encoder, waveform: Tensor, mask_ratio: float, mask_type: str, generator: torch.Generator
) -> Reconstruction:
    """Mask a clip and let the network fill it in.

    Args:
        encoder: an encoder whose checkpoint has a decoder.
        waveform: (S,) at 16 kHz; a clip shorter than one token is zero-padded to one.
        mask_ratio: share of masked tokens.
        mask_type: one of `MASK_TYPES`.
        generator: draws the mask, on the CPU.

    Returns:
        Log-mel spectrograms, not normalised.

    Raises:
        ValueError: the checkpoint has no decoder, or the clip has only one token.
    """
    config = encoder.config.model
    if config.decoder_depth == 0:
        raise ValueError("this checkpoint has no decoder to reconstruct with; use one from pretraining")
    missing = max(0, num_samples(config.patch_frames) - len(waveform))
    patches = encoder.patches(torch.nn.functional.pad(waveform, (0, missing))[None])  # (1, N, P)
    grid = Grid(1, patches.shape[1] // config.mel_patches, config.mel_patches)
    if grid.tokens < 2:
        raise ValueError("the clip is one token long: nothing would stay visible; use a longer clip")
    scores = MASK_TYPES[mask_type](grid, mask_ratio, generator)
    visible, masked = split_visible_masked(scores, num_masked(grid.tokens, mask_ratio))
    result = reconstruct(encoder.network, patches, visible.to(encoder.device), masked.to(encoder.device))
    normalisation = encoder.config.normalisation
    scale = normalisation.std / normalisation.scale
    original, rebuilt = (values * scale + normalisation.mean for values in (result.original, result.rebuilt))
    return Reconstruction(original, result.masked, rebuilt)


@torch.no_grad()
def reconstruct(network: MaeAst, patches: Tensor, visible: Tensor, masked: Tensor) -> Reconstruction:
    """The spectrogram of one clip before masking, and with the masked tokens as the decoder predicts them.

    Args:
        network: a network with a decoder, in eval mode.
        patches: (1, N, P) normalised patches.
        visible: (1, K) indices of the visible tokens.
        masked: (1, N - K) indices of the masked tokens.
    """
    predicted = network.predict(patches, visible, masked).reconstruction.float()
    index = masked[..., None].expand_as(predicted)
    rebuilt = patches.float().scatter(1, index, predicted)
    hidden = torch.zeros_like(rebuilt).scatter(1, index, 1.0)
    original, hidden, rebuilt = (
        unpatchify(values, network.config)[0].cpu() for values in (patches.float(), hidden, rebuilt)
    )
    return Reconstruction(original.numpy(), hidden.numpy() > 0, rebuilt.numpy())


def draw(figure: "Figure", result: Reconstruction) -> None:
    """Draw three spectrograms, one above the other, on the same colour scale."""
    axes = figure.subplots(3, 1, sharex=True)
    low, high = np.percentile(result.original, [2, 99.8])
    high = max(high, low + 1)  # silence has one colour
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

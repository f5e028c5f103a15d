"""``maeast visualize``: a clip's spectrogram, what the encoder sees of it, and what the decoder makes of that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.arguments import Parser, parse_seed
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.frontend import HOP_SAMPLES, LOW_HZ, SAMPLE_RATE, num_samples
from maeast_upstream.model import unpatchify
from maeast_upstream.visualization.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)
CHUNK_SIDE = 3
"""Side of the squares that --mask chunk removes, in tokens."""


@dataclass(frozen=True)
class Reconstruction:
    """A clip before and after masking; (frames, mels) each."""

    original: np.ndarray
    """The log-mel spectrogram."""
    masked: np.ndarray
    """bool, True where a token was removed."""
    rebuilt: np.ndarray
    """The spectrogram with the removed tokens as the decoder predicts them."""

    @property
    def error(self) -> float:
        """Mean square error of the removed part, as a share of its variance."""
        hidden = self.original[self.masked]
        return float(np.square(self.rebuilt[self.masked] - hidden).mean() / max(hidden.var(), 1e-8))


def main(argv: Sequence[str]) -> int:
    """Draw a clip's spectrogram, its masked input and the reconstruction."""
    parser = Parser(prog="maeast visualize", description=main.__doc__)
    parser.add_argument("audio", type=Path)
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument(
        "--checkpoint",
        help="name, path or hub id; default: the checkpoint in the package",
    )
    parser.add_argument(
        "--mask-ratio",
        type=float,
        default=0.75,
        help="share of removed tokens; default 0.75",
    )
    parser.add_argument(
        "--mask",
        choices=("random", "chunk"),
        default="random",
        help=f"single tokens (default), or squares of {CHUNK_SIDE} x {CHUNK_SIDE}",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how much of the clip; default 10")
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the mask; default 0")
    args = parser.parse_args(argv)
    if not 0 < args.mask_ratio < 1:
        raise ValueError(f"--mask-ratio must lie between 0 and 1, got {args.mask_ratio:g}")
    if not (math.isfinite(args.seconds) and args.seconds > 0):
        raise ValueError(f"--seconds must be above 0, got {args.seconds:g}")
    with drawing(args.out, 10, 6.5) as figure:
        samples = read_audio(args.audio)[: math.ceil(args.seconds * SAMPLE_RATE)]
        encoder = load_model(args.checkpoint)
        generator = torch.Generator().manual_seed(args.seed)
        result = reconstruct(encoder, torch.from_numpy(samples), args.mask_ratio, args.mask, generator)
        draw(figure, result)
        figure.suptitle(f"{args.audio.name}, {result.masked.mean():.0%} of its tokens masked ({args.mask})")
    print(f"error {result.error:.0%} of the masked part's variance: {args.out}")
    return 0


def reconstruct(
    encoder: Encoder,
    waveform: Tensor,
    mask_ratio: float,
    mask: str,
    generator: torch.Generator,
) -> Reconstruction:
    """Mask a clip and let the network fill it in.

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
        raise ValueError("the clip is one token long: nothing would be left to see; use a longer one")
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
    """(N,) numbers of which the lowest are masked: one draw for each token, or for each square of tokens."""
    side = CHUNK_SIDE if mask == "chunk" else 1
    squares = torch.rand(-(-steps // side), -(-mel_patches // side), generator=generator)
    scores = squares.repeat_interleave(side, 0).repeat_interleave(side, 1)[:steps, :mel_patches].flatten()
    # a second, tiny draw says which tokens of the last square go
    return scores + 1e-6 * torch.rand(len(scores), generator=generator)


def draw(figure: "Figure", result: Reconstruction) -> None:
    """Three spectrograms, one above the other, on one colour scale."""
    axes = figure.subplots(3, 1, sharex=True)
    low, high = np.percentile(result.original, [2, 99.8])
    frames, mels = result.original.shape
    pictures = (
        (result.original, "log-mel spectrogram"),
        (np.ma.array(result.original, mask=result.masked), "what the encoder sees"),
        (
            result.rebuilt,
            "reconstruction: visible tokens as they are, masked ones predicted",
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
    """Where ``hz`` lies on an axis on which mel bin b reaches from b to b + 1; Kaldi's mel scale."""
    low, high, here = (math.log(1 + f / 700) for f in (LOW_HZ, SAMPLE_RATE / 2, hz))
    return min((here - low) / (high - low) * (num_mel_bins + 1) - 0.5, float(num_mel_bins))

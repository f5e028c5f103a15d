"""``maeast visualize``: a clip's spectrogram, what the encoder sees of it, and what the decoder makes of that."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maeast_upstream.audio import read_audio
from maeast_upstream.command import Parser
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.files import replacing
from maeast_upstream.frontend import LOW_HZ, SAMPLE_RATE, num_samples
from maeast_upstream.model import unpatchify

TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)


def main(argv: Sequence[str]) -> int:
    """Draw a clip's spectrogram, its masked input and the reconstruction."""
    parser = Parser(prog="maeast visualize", description=main.__doc__)
    parser.add_argument("audio", type=Path)
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument("--checkpoint", help="name, path or hub id; default: the checkpoint in the package")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of removed tokens")
    parser.add_argument(
        "--mask",
        choices=("random", "chunk"),
        default="random",
        help="single tokens, or squares of 3 x 3",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how much of the clip")
    parser.add_argument("--seed", type=int, default=0, help="of the mask")
    args = parser.parse_args(argv)
    if not 0 < args.mask_ratio < 1:
        raise ValueError(f"--mask-ratio must lie between 0 and 1, got {args.mask_ratio}")
    waveform = torch.from_numpy(read_audio(args.audio)[: max(1, round(args.seconds * SAMPLE_RATE))])
    encoder = load_model(args.checkpoint)
    generator = torch.Generator().manual_seed(args.seed)
    original, masked, rebuilt = reconstruct(encoder, waveform, args.mask_ratio, args.mask == "chunk", generator)
    error = float(np.square(rebuilt - original)[masked].mean() / original.var())
    title = f"{args.audio.name}: {100 * args.mask_ratio:.0f} % removed; error {100 * error:.0f} % of the variance"
    draw(args.out, original, masked, rebuilt, title)
    print(f"wrote {args.out}")
    return 0


def reconstruct(
    encoder: Encoder, waveform: torch.Tensor, ratio: float, chunks: bool, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask a clip and let the network fill it in.

    Args:
        encoder: must have a decoder.
        waveform: (S,) at 16 kHz.
        ratio: share of removed tokens.
        chunks: remove squares of 3 x 3 tokens rather than single ones.
        generator: draws the mask.

    Returns:
        (frames, mels) each: the log-mel, where it was masked (bool), the log-mel with the masked part predicted.
    """
    config = encoder.config.model
    if config.decoder_depth == 0:
        raise ValueError("this checkpoint has no decoder: nothing can be reconstructed")
    shortest = num_samples(config.patch_frames)
    padded = torch.nn.functional.pad(waveform, (0, max(0, shortest - len(waveform))))
    patches = encoder.patches(padded[None])
    count = patches.shape[1]
    steps = count // config.mel_patches
    # One draw for each square, or for each token: the lowest are masked, ties inside a square broken by a second draw.
    side = 3 if chunks else 1
    coarse = torch.rand(-(-steps // side), -(-config.mel_patches // side), generator=generator)
    score = coarse.repeat_interleave(side, 0)[:steps].repeat_interleave(side, 1)[:, : config.mel_patches].flatten()
    order = (score + 1e-6 * torch.rand(count, generator=generator)).argsort()
    hidden = min(count - 1, round(ratio * count))
    masked, visible = order[:hidden].sort().values[None], order[hidden:].sort().values[None]
    with torch.no_grad():
        prediction = encoder.network.predict(patches, visible.to(encoder.device), masked.to(encoder.device))
    filled, where = patches.clone(), torch.zeros_like(patches, dtype=torch.bool)
    filled[0, masked[0]] = prediction.reconstruction[0]
    where[0, masked[0]] = True
    normalisation = encoder.config.normalisation
    original, rebuilt = (
        unpatchify(x, config)[0].cpu() * (normalisation.std / normalisation.scale) + normalisation.mean
        for x in (patches, filled)
    )
    return original.numpy(), unpatchify(where, config)[0].cpu().numpy(), rebuilt.numpy()


def draw(out: Path, original: np.ndarray, masked: np.ndarray, rebuilt: np.ndarray, title: str) -> None:
    """Three (frames, mels) pictures, one above the other, on one colour scale."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("maeast visualize needs matplotlib: pip install 'maeast-upstream[plot]'") from error
    figure = Figure(figsize=(10, 6.5), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 1, sharex=True)
    low, high = np.percentile(original, [2, 99.8])
    seconds = len(original) / 100
    pictures = (
        (original, "log-mel spectrogram"),
        (np.ma.array(original, mask=masked), "what the encoder sees"),
        (rebuilt, "reconstruction"),
    )
    for axis, (picture, name) in zip(axes, pictures, strict=True):
        axis.set_facecolor("0.75")
        image = axis.imshow(
            picture.T,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=low,
            vmax=high,
            extent=(0, seconds, 0, picture.shape[1]),
            interpolation="nearest",
        )
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_yticks(
            [mel_bin(hz, picture.shape[1]) for hz in TICKS_HZ],
            [f"{hz / 1000:g}" for hz in TICKS_HZ],
        )
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=axes, label="log energy", pad=0.01, aspect=40)
    figure.suptitle(title, fontsize=11)
    with replacing(out) as part:
        figure.savefig(part, dpi=110, format=out.suffix.lstrip(".") or "png")


def mel_bin(hz: float, num_mel_bins: int) -> float:
    """The (fractional) mel bin whose centre is at ``hz``; Kaldi's mel scale."""
    low, high, here = (1127 * np.log(1 + f / 700) for f in (LOW_HZ, SAMPLE_RATE / 2, hz))
    return float((here - low) / (high - low) * (num_mel_bins + 1) - 0.5)

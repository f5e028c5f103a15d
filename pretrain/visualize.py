"""``maeast visualize``: draws a clip's spectrogram, its masked input and the decoder's reconstruction."""

import math
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser, parse_seed
from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.cli import ExitStatus

MASK_TYPES = ("random", "chunk", "span", "inverse", "chunk_official", "spans_official")
"""The mask types of pretrain.masking, repeated because --help imports no torch."""


def main(argv: Sequence[str]) -> int:
    """Draw a clip's spectrogram, its masked input and the reconstruction."""
    args = build_parser().parse_args(argv)
    if not 0 < args.mask_ratio < 1:
        raise ValueError(f"--mask-ratio must lie between 0 and 1, got {args.mask_ratio:g}")
    if not 0 < args.seconds <= MAX_HOURS * 3600:
        raise ValueError(f"--seconds must be above 0 and at most {MAX_HOURS * 3600:g}, got {args.seconds:g}")
    import torch

    from maeast_upstream.audio.reading import read_audio
    from maeast_upstream.encoder import load_model
    from maeast_upstream.frontend import SAMPLE_RATE
    from maeast_upstream.visualization.figures import drawing, drawn_name
    from pretrain.reconstruction import draw, reconstruct_clip

    with drawing(args.out, 10, 6.5) as figure:
        samples = read_audio(args.audio)[: math.ceil(args.seconds * SAMPLE_RATE)]
        encoder = load_model(args.checkpoint)
        generator = torch.Generator().manual_seed(args.seed)
        result = reconstruct_clip(encoder, torch.from_numpy(samples), args.mask_ratio, args.mask, generator)
        draw(figure, result)
        title = f"{drawn_name(args.audio.name)}, {result.masked.mean():.0%} of its tokens masked ({args.mask})"
        figure.suptitle(title, parse_math=False)
    print(f"wrote {args.out}: {result.describe_error()}")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast visualize", description=main.__doc__)
    parser.add_argument("audio", type=Path, help="an audio file")
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument("--checkpoint", help="name, path or hub id; default: the checkpoint in the package")
    parser.add_argument("--mask-ratio", type=float, default=0.75, help="share of masked tokens; default 0.75")
    parser.add_argument(
        "--mask",
        choices=MASK_TYPES,
        default="random",
        help="type of the mask, as in a recipe; default random",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the drawn part; default 10")
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the mask; default 0")
    return parser

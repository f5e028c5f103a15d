"""``python -m pretrain.synth -o FOLDER`` writes computed sounds as WAV files, to listen to."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError, parse_seed
from maeast_upstream.cli import ExitStatus, run

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    import numpy as np

MAX_NUMBER, MAX_SECONDS, MAX_CROPS = 100_000, 600.0, 100
COLUMNS, MAX_DRAWN = 8, 64


def main(argv: Sequence[str]) -> int:
    """Write computed sounds as WAV files: those of the first batch of a run with --data.corpus synth: and this seed."""
    args = build_parser().parse_args(argv)
    for name, most in (("number", MAX_NUMBER), ("seconds", MAX_SECONDS), ("crops", MAX_CROPS)):
        least = 0.2 if name == "seconds" else 1
        if not least <= getattr(args, name) <= most:
            raise UsageError(f"--{name} must be {least:g} to {most:g}, got {getattr(args, name):g}")
    from maeast_upstream.audio.constants import SAMPLE_RATE
    from maeast_upstream.audio.writing import write_wav
    from maeast_upstream.storage.atomic import replacing
    from pretrain.synth.sounds import computed_crop

    if args.picture is not None:
        draw(args.picture, args.seed, args.number, args.crops, args.seconds)
    args.out.mkdir(parents=True, exist_ok=True)
    for number in range(args.number):
        for crop in range(args.crops):
            samples = computed_crop((args.seed, 0), number, crop, round(args.seconds * SAMPLE_RATE))
            with replacing(args.out / f"{number:05d}-{crop + 1}.wav") as part:
                write_wav(part, samples)
    print(f"{args.out}: {args.number * args.crops} files of {args.seconds:g} s")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="python -m pretrain.synth", description=main.__doc__)
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder for the WAV files")
    parser.add_argument("--number", type=int, default=20, help="number of sounds; default 20")
    parser.add_argument(
        "--crops", type=int, default=1, help="crops of each sound, as the views of the clip loss; default 1"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a crop; default 2")
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of the sounds; default 0")
    parser.add_argument("--picture", type=Path, help=f"PICTURE.png: also draw the first {MAX_DRAWN} crops")
    return parser


def draw(path: Path, seed: int, number: int, crops: int, seconds: float) -> None:
    """Draw log-mel spectrograms of the first crops, time to the right; crops of a sound stand side by side."""
    import torch

    from maeast_upstream.audio.constants import SAMPLE_RATE
    from maeast_upstream.frontend import Fbank, FrontendConfig
    from maeast_upstream.visualization.figures import drawing
    from pretrain.synth.sounds import computed_crop

    def spectrogram(place: int) -> "np.ndarray":
        samples = computed_crop((seed, 0), place // crops, place % crops, round(seconds * SAMPLE_RATE))
        drawn: np.ndarray = Fbank(FrontendConfig())(torch.from_numpy(samples)[None], None)[0].T.numpy()
        return drawn

    shown = min(MAX_DRAWN, number * crops)
    rows = -(-shown // COLUMNS)
    with drawing(path, 10, 1.1 * rows) as figure:
        for place, axis in enumerate(figure.subplots(rows, COLUMNS, squeeze=False).flat):
            axis.set_axis_off()
            if place < shown:
                axis.imshow(spectrogram(place), origin="lower", aspect="auto", vmin=-14, vmax=8)


if __name__ == "__main__":
    sys.exit(run(main))

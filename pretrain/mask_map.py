"""``python -m pretrain.mask_map -o masks.png`` draws the mask types, and how often each removes each token."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.cli import run

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from torch import Tensor

    from pretrain.masking.rules import Grid, Scores

BATCH, PATCHES, FRAMES = 256, (62, 8), (500, 1)
"""Masks of a batch, and the tokens of ten seconds, as time steps and mel patches."""
RATIO = 0.75
SMALLER = 64
"""chunk_official has one mask per batch: this many times smaller batches, and as many times more of them."""


def main(argv: Sequence[str]) -> int:
    """Draw each mask type on ten seconds: an example, and how often each token is removed."""
    parser = Parser(prog="python -m pretrain.mask_map", description=main.__doc__)
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument("--batches", type=int, default=40, help=f"batches of {BATCH} masks; default 40")
    args = parser.parse_args(argv)
    if args.batches < 1:
        raise UsageError(f"--batches must be at least 1, got {args.batches}")
    import torch

    from maeast_upstream.visualization.figures import drawing
    from pretrain.masking.mask_types import MASK_TYPES
    from pretrain.masking.rules import Grid, removal_frequency

    with drawing(args.out, 8, 6.5) as figure:
        axes = figure.subplots(len(MASK_TYPES), 2)
        for (left, right), (name, scores) in zip(axes, MASK_TYPES.items(), strict=True):
            frames = name.startswith("span")
            grid = Grid(BATCH, *(FRAMES if frames else PATCHES))
            show(left, example(scores, grid), f"{name}: {'frame' if frames else 'patch'} tokens")
            smaller = SMALLER if name == "chunk_official" else 1
            generator = torch.Generator().manual_seed(0)
            small = grid._replace(batch=grid.batch // smaller)
            frequency = removal_frequency(scores, small, RATIO, generator, args.batches * smaller)
            image = show(right, frequency, f"removed by {frequency.min():.1%} to {frequency.max():.1%} of masks")
        figure.colorbar(image, ax=axes, label="share of masks that remove the token", aspect=40)
    print(f"wrote {args.out}")
    return 0


def example(scores: "Scores", grid: "Grid") -> "Tensor":
    """(T, M) float: one mask, 1 where a token is removed."""
    import torch

    from pretrain.masking.rules import num_masked, split_visible_masked

    drawn = scores(grid._replace(batch=1), RATIO, torch.Generator().manual_seed(0))
    masked = split_visible_masked(drawn, num_masked(grid.tokens, RATIO))[1]
    return torch.zeros(1, grid.tokens).scatter(1, masked, 1.0).view(grid.steps, grid.mels)


def show(axis: "Axes", values: "Tensor", title: str) -> "AxesImage":
    """Draw (T, M) values from 0 to 1, time to the right."""
    image = axis.imshow(values.T, origin="lower", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, loc="left", fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    return image


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))

"""``python -m pretrain.mask_map -o masks.png`` draws the mask types, and how often each removes each token."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import run
from maeast_upstream.visualization.figures import drawing
from pretrain.masking.mask_types import MASK_TYPES
from pretrain.masking.rules import Grid, Scores, num_masked, removal_frequency, split_visible_masked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

PATCHES, FRAMES = Grid(256, 62, 8), Grid(256, 500, 1)
"""Tokens of ten seconds."""
RATIO = 0.75
SMALLER = 64
"""chunk_official has one mask per batch: this many times smaller batches, and as many times more of them."""


def main(argv: Sequence[str]) -> int:
    """Draw each mask type on ten seconds: an example, and how often each token is removed."""
    parser = Parser(prog="python -m pretrain.mask_map", description=main.__doc__)
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument("--batches", type=int, default=40, help=f"batches of {PATCHES.batch} masks; default 40")
    args = parser.parse_args(argv)
    with drawing(args.out, 8, 6.5) as figure:
        axes = figure.subplots(len(MASK_TYPES), 2)
        for (left, right), (name, scores) in zip(axes, MASK_TYPES.items(), strict=True):
            grid = FRAMES if name.startswith("span") else PATCHES
            tokens = "frame" if grid is FRAMES else "patch"
            show(left, example(scores, grid), f"{name}: {tokens} tokens")
            smaller = SMALLER if name == "chunk_official" else 1
            generator = torch.Generator().manual_seed(0)
            small = grid._replace(batch=grid.batch // smaller)
            frequency = removal_frequency(scores, small, RATIO, generator, args.batches * smaller)
            image = show(right, frequency, f"removed by {frequency.min():.1%} to {frequency.max():.1%} of masks")
        figure.colorbar(image, ax=axes, label="share of masks that remove the token", aspect=40)
    print(f"wrote {args.out}")
    return 0


def example(scores: Scores, grid: Grid) -> Tensor:
    """(T, M) float: one mask, 1 where a token is removed."""
    drawn = scores(grid._replace(batch=1), RATIO, torch.Generator().manual_seed(0))
    masked = split_visible_masked(drawn, num_masked(grid.tokens, RATIO))[1]
    return torch.zeros(1, grid.tokens).scatter(1, masked, 1.0).view(grid.steps, grid.mels)


def show(axis: "Axes", values: Tensor, title: str) -> "AxesImage":
    """Draw (T, M) values from 0 to 1, time to the right."""
    image = axis.imshow(values.T, origin="lower", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, loc="left", fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])
    return image


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))

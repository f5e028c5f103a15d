"""``python -m pretrain.mask_map -o masks.png``: each kind of mask, once and as how often it removes each token."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import run
from maeast_upstream.visualization.figures import drawing
from pretrain.masking.kinds import KINDS
from pretrain.masking.rules import Grid, Scores, num_masked, split

PATCHES, FRAMES = Grid(256, 62, 8), Grid(256, 500, 1)
"""Tokens of ten seconds."""
RATIO = 0.75
PER_BATCH = 64


def main(argv: Sequence[str]) -> int:
    """Draw each kind of mask on ten seconds: one example, and how often each token is removed."""
    parser = Parser(prog="python -m pretrain.mask_map", description=main.__doc__)
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.png")
    parser.add_argument("--batches", type=int, default=40, help=f"of {PATCHES.batch} masks each; default 40")
    args = parser.parse_args(argv)
    with drawing(args.out, 8, 6.5) as figure:
        axes = figure.subplots(len(KINDS), 2)
        for (left, right), (kind, scores) in zip(axes, KINDS.items(), strict=True):
            grid = FRAMES if kind.startswith("span") else PATCHES
            same = PER_BATCH if kind == "chunk_official" else 1  # one mask for all of a batch: more and smaller ones
            drawn = grid._replace(batch=grid.batch // same)
            frequency = removal_frequency(scores, drawn, RATIO, args.batches * same)
            example = masks(scores, grid._replace(batch=1), RATIO, torch.Generator().manual_seed(0))[0]
            name = f"{kind}: {'frame' if grid is FRAMES else 'patch'} tokens"
            for axis, values, title in (
                (left, example.view(grid.steps, grid.mels), name),
                (
                    right,
                    frequency,
                    f"removed by {frequency.min():.1%} to {frequency.max():.1%} of masks",
                ),
            ):
                image = axis.imshow(values.T, origin="lower", aspect="auto", vmin=0, vmax=1, interpolation="nearest")
                axis.set_title(title, loc="left", fontsize=8)
                axis.set_xticks([])
                axis.set_yticks([])
        figure.colorbar(image, ax=axes, label="share of masks that remove the token", aspect=40)
    return 0


def masks(scores: Scores, grid: Grid, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """(B, N) float, 1 where masked."""
    masked = split(scores(grid, mask_ratio, generator), num_masked(grid.tokens, mask_ratio))[1]
    return torch.zeros(grid.batch, grid.tokens).scatter(1, masked, 1.0)


def removal_frequency(scores: Scores, grid: Grid, mask_ratio: float, batches: int) -> Tensor:
    """(T, M) share of masks that remove each token."""
    generator = torch.Generator().manual_seed(0)
    total = sum(masks(scores, grid, mask_ratio, generator).mean(dim=0) for _ in range(batches))
    return torch.as_tensor(total / batches).view(grid.steps, grid.mels)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))

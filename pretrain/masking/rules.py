"""Which tokens are masked in pretraining: pure functions of a grid of tokens, a mask ratio and a random generator.

Each clip of a batch draws its own mask, on the generator's device and without a loop over clips. Every token gets a
score, and the tokens with the lowest scores are masked, so the number of masked tokens is exact for every mask type.
`published` holds the rules of the published code.

Shapes: B clips, T time steps, M mel patches of a time step, N = T * M tokens in time-major order.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

CHUNK_SIDES = (3, 4, 5)
"""Sides of square chunks in tokens; each clip draws one. Source: SSAST, arXiv 2110.09784."""
SPAN_STEPS = 10
"""Length of a span in time steps. Source: wav2vec 2.0, arXiv 2006.11477."""
INVERSE_SIDES = (5,)
"""Sides of the blocks that stay visible. Source: EAT, arXiv 2401.03497."""
BLOCK_OVERSAMPLING = 1.5
"""Blocks drawn over the number expected to cover the share; tokens that no block covers are masked at random."""


class Grid(NamedTuple):
    """The tokens of a batch."""

    batch: int
    """B, clips."""
    steps: int
    """T, time steps."""
    mels: int
    """M, mel patches of a time step."""

    @property
    def tokens(self) -> int:
        """N, the tokens of a clip."""
        return self.steps * self.mels


Scores = Callable[[Grid, float, Generator], Tensor]
"""A mask type: (grid, mask ratio, generator) -> (B, N) scores; the lowest of each row are to be masked."""


def num_masked(num_tokens: int, mask_ratio: float) -> int:
    """Number of masked tokens of a clip: all but int((1 - mask_ratio) * num_tokens), and at least one stays visible."""
    return num_tokens - max(1, int((1.0 - mask_ratio) * num_tokens))


def uniform(grid: Grid, generator: Generator, columns: int | None = None) -> Tensor:
    """(B, columns) random numbers in [0, 1); by default one for each token."""
    return torch.rand(grid.batch, columns or grid.tokens, generator=generator, device=generator.device)


def random_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores: every token is equally likely to be masked."""
    del mask_ratio  # the scores are the same at every ratio
    return uniform(grid, generator)


def chunk_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that mask square chunks with sides of 3, 4 or 5 tokens, one after the other."""
    return block_scores(grid, CHUNK_SIDES, mask_ratio, generator)


def span_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that mask spans of 10 time steps with all their tokens, one after the other."""
    steps = block_scores(Grid(grid.batch, grid.steps, 1), (SPAN_STEPS,), mask_ratio, generator)
    return steps.repeat_interleave(grid.mels, dim=1)


def inverse_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that keep square blocks of 5 x 5 tokens visible, one after the other."""
    return -block_scores(grid, INVERSE_SIDES, 1.0 - mask_ratio, generator)


def block_scores(grid: Grid, sides: tuple[int, ...], share: float, generator: Generator) -> Tensor:
    """(B, N) index of the first of many random blocks that covers each token, plus a random fraction.

    A block may extend over any edge of the grid, where it is cut and never wrapped, so each block is equally likely to
    cover any token. The fraction decides which tokens of a clip's last block are left out, and orders the tokens that
    no block covers.

    Args:
        grid: the tokens.
        sides: possible sides of the square blocks in tokens; each clip draws one. In a grid with fewer mel patches a
            block covers all of them.
        share: the share of the tokens that blocks should cover.
        generator: draws the blocks.
    """
    choice = (uniform(grid, generator, 1) * len(sides)).long()
    side = torch.full_like(choice, sides[0])  # (B, 1)
    for index, value in enumerate(sides):  # indexing a table of sides would copy it to the GPU, which waits
        side = torch.where(choice == index, value, side)
    blocks = num_blocks(grid, min(sides), share)
    top = (uniform(grid, generator, blocks) * (grid.steps + side - 1)).long() - side + 1  # (B, blocks)
    left = (uniform(grid, generator, blocks) * (grid.mels + side - 1)).long() - side + 1
    offset = torch.arange(max(sides), device=generator.device)
    step, mel = top[..., None] + offset, left[..., None] + offset  # (B, blocks, side)
    in_block = offset < side[..., None]
    inside = (
        (((step >= 0) & (step < grid.steps) & in_block)[..., None])
        & (((mel >= 0) & (mel < grid.mels) & in_block)[:, :, None])
    )
    # positions outside the grid go to one more column, which is dropped
    token = torch.where(inside, step[..., None] * grid.mels + mel[:, :, None], grid.tokens).flatten(1)
    block = torch.arange(blocks, device=generator.device).repeat_interleave(max(sides) ** 2).expand_as(token)
    first = torch.full((grid.batch, grid.tokens + 1), blocks, device=generator.device)
    return first.scatter_reduce(1, token, block, "amin")[:, :-1] + uniform(grid, generator)


def num_blocks(grid: Grid, side: int, share: float) -> int:
    """How many blocks `block_scores` draws so that they almost surely cover ``share`` of the tokens."""
    covers = side**2 / ((grid.steps + side - 1) * (grid.mels + side - 1))  # probability that a block covers a token
    if covers >= 1.0:
        return 1
    return math.ceil(BLOCK_OVERSAMPLING * math.log(1.0 - min(share, 0.99)) / math.log1p(-covers)) + 8


def mixed_scores(types: Sequence[tuple[Scores, float]], grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores: each clip draws its mask type with the given probabilities; the rest of the clips is random."""
    choice = uniform(grid, generator, 1)
    scores, low = random_scores(grid, mask_ratio, generator), 0.0
    for mask_type, share in types:
        chosen = (choice >= low) & (choice < low + share)
        scores = torch.where(chosen, mask_type(grid, mask_ratio, generator), scores)
        low += share
    return scores


def make_disjoint(scores: Tensor, count: int) -> Tensor:
    """Change scores so that the two rows of a clip have no visible token in common.

    Args:
        scores: (B, N); rows 2i and 2i + 1 belong to one clip.
        count: masked tokens of a row; at least half of N.

    Returns:
        (B, N): the tokens that row 2i sees are the first to be masked in row 2i + 1.
    """
    first, second = scores[::2], scores[1::2]
    seen = first[: len(second)].argsort(dim=1)[:, count:]
    scores = scores.clone()
    scores[1::2] = second.scatter(1, seen, -torch.inf)
    return scores


def subsample_masked(masked: Tensor, share: float, generator: Generator) -> Tensor:
    """(B, n) indices -> a random ``share`` of each row's indices, at least one, in ascending order."""
    noise = torch.rand(masked.shape, generator=generator, device=generator.device)
    chosen = noise.argsort(dim=1)[:, : max(1, round(share * masked.shape[1]))]
    return masked.gather(1, chosen.sort(dim=1).values)


def split_visible_masked(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, N) scores -> indices (B, N - count) of the visible and (B, count) of the masked tokens, each ascending."""
    order = scores.argsort(dim=1)
    return order[:, count:].sort(dim=1).values, order[:, :count].sort(dim=1).values


def removal_frequency(scores: Scores, grid: Grid, mask_ratio: float, generator: Generator, batches: int = 1) -> Tensor:
    """(T, M) share of the masks of some batches that remove each token."""
    counts = torch.zeros(grid.tokens, device=generator.device)
    for _ in range(batches):
        masked = split_visible_masked(scores(grid, mask_ratio, generator), num_masked(grid.tokens, mask_ratio))[1]
        counts += masked.flatten().bincount(minlength=grid.tokens)
    return (counts / (batches * grid.batch)).view(grid.steps, grid.mels)

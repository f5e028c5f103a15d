"""Which tokens are removed in pretraining: pure functions of a shape, a ratio and a generator.

Each clip of a batch draws its own mask, on the generator's device, without a loop over clips: every token gets a score,
and the tokens with the lowest scores are masked, so that the count is exact for every kind of mask. `published_masks`
has the rules of the published code.

Shapes: B clips, T time steps, M mel patches of a time step, N = T * M tokens in time-major order.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

CHUNK_SIDES = (3, 4, 5)
"""Of square chunks, in tokens; one side a clip. Source: SSAST, arXiv 2110.09784."""
SPAN_STEPS = 10
"""Length of a span. Source: wav2vec 2.0, arXiv 2006.11477."""
INVERSE_SIDES = (5,)
"""Of the visible blocks. Source: EAT, arXiv 2401.03497."""
ENOUGH = 1.5
"""So many times the blocks that are expected to cover a share are drawn; what they leave is random."""


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
        """N."""
        return self.steps * self.mels


Scores = Callable[[Grid, float, Generator], Tensor]
"""A kind of mask: (the tokens, the share to be removed, chance) -> (B, N), the lowest of each row to be masked."""


def num_masked(num_tokens: int, mask_ratio: float) -> int:
    """How many of a clip's tokens are removed: all but int((1 - mask_ratio) * num_tokens), and at least one stays."""
    return num_tokens - max(1, int((1.0 - mask_ratio) * num_tokens))


def draw(grid: Grid, generator: Generator, columns: int | None = None) -> Tensor:
    """(B, columns) numbers in [0, 1), a column for each token if not told otherwise."""
    return torch.rand(grid.batch, columns or grid.tokens, generator=generator, device=generator.device)


def random_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores: every token is equally likely to be masked."""
    del mask_ratio  # the same at every ratio
    return draw(grid, generator)


def chunk_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores under which square chunks of 3, 4 or 5 tokens are masked one after the other."""
    return first_block(grid, CHUNK_SIDES, mask_ratio, generator)


def span_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores under which spans of 10 time steps, all their tokens, are masked one after the other."""
    steps = first_block(Grid(grid.batch, grid.steps, 1), (SPAN_STEPS,), mask_ratio, generator)
    return steps.repeat_interleave(grid.mels, dim=1)


def inverse_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores under which square blocks of 5 x 5 tokens stay visible, one after the other."""
    return -first_block(grid, INVERSE_SIDES, 1.0 - mask_ratio, generator)


def first_block(grid: Grid, sides: tuple[int, ...], share: float, generator: Generator) -> Tensor:
    """For each token the number of the first of many random blocks that covers it, plus a fraction by chance.

    A block may hang over any edge and is cut there, never wrapped, so that each is equally likely to cover any token.
    The fraction says which tokens of a clip's last block are left out, and orders those that no block covers.

    Args:
        grid: the tokens.
        sides: of the blocks, of which each clip draws one; along mel a block is no wider than the grid.
        share: of the tokens that blocks are to cover.
        generator: chance.
    """
    choice = (draw(grid, generator, 1) * len(sides)).long()
    side = torch.full_like(choice, sides[0])  # (B, 1)
    for place, value in enumerate(sides):  # a table of them would be copied to a GPU, which waits
        side = torch.where(choice == place, value, side)
    blocks = blocks_for(grid, min(sides), share)
    top = (draw(grid, generator, blocks) * (grid.steps + side - 1)).long() - side + 1  # (B, blocks)
    left = (draw(grid, generator, blocks) * (grid.mels + side - 1)).long() - side + 1
    offset = torch.arange(max(sides), device=generator.device)
    step, mel = top[..., None] + offset, left[..., None] + offset  # (B, blocks, side)
    whole = offset < side[..., None]
    inside = (
        (((step >= 0) & (step < grid.steps) & whole)[..., None])
        & (((mel >= 0) & (mel < grid.mels) & whole)[:, :, None])
    )
    # what lies outside goes to one more column, which is dropped
    index = torch.where(inside, step[..., None] * grid.mels + mel[:, :, None], grid.tokens).flatten(1)
    number = torch.arange(blocks, device=generator.device).repeat_interleave(max(sides) ** 2).expand_as(index)
    first = torch.full((grid.batch, grid.tokens + 1), blocks, device=generator.device)
    return first.scatter_reduce(1, index, number, "amin")[:, :-1] + draw(grid, generator)


def blocks_for(grid: Grid, side: int, share: float) -> int:
    """How many blocks of `first_block` cover a ``share`` of the tokens, with some to spare."""
    covers = side**2 / ((grid.steps + side - 1) * (grid.mels + side - 1))  # the chance that one covers a given token
    return math.ceil(ENOUGH * math.log(1.0 - min(share, 0.99)) / math.log1p(-covers)) + 8 if covers < 1.0 else 1


def mixed_scores(kinds: Sequence[tuple[Scores, float]], grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores: each clip draws its kind with the probability beside it; what these leave is random."""
    choice = draw(grid, generator, 1)
    scores, below = random_scores(grid, mask_ratio, generator), 0.0
    for kind, share in kinds:
        here = (choice >= below) & (choice < below + share)
        scores = torch.where(here, kind(grid, mask_ratio, generator), scores)
        below += share
    return scores


def apart(scores: Tensor, count: int) -> Tensor:
    """(B, N) scores, rows 2i and 2i + 1 of one clip -> the same, but what row 2i sees is masked first in row 2i + 1.

    Needs twice the visible tokens to be no more than all of them; ``count`` is of the masked ones.
    """
    first, second = scores[::2], scores[1::2]
    seen = first[: len(second)].argsort(dim=1)[:, count:]
    scores = scores.clone()
    scores[1::2] = second.scatter(1, seen, -torch.inf)
    return scores


def some(masked: Tensor, share: float, generator: Generator) -> Tensor:
    """(B, n) indices -> a random ``share`` of each row's, at least one, ascending."""
    noise = torch.rand(masked.shape, generator=generator, device=generator.device)
    chosen = noise.argsort(dim=1)[:, : max(1, round(share * masked.shape[1]))]
    return masked.gather(1, chosen.sort(dim=1).values)


def split(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, N) scores -> indices (B, N - count) of the visible and (B, count) of the masked tokens, each ascending."""
    order = scores.argsort(dim=1)
    return order[:, count:].sort(dim=1).values, order[:, :count].sort(dim=1).values

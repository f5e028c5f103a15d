"""The masks of the published code with their peculiarities, for comparison. Source: upstream/mae_ast of s3prl.

Where a rule speaks of a batch, it means the rows whose masks are drawn together: in training `BLOCK_ROWS` rows.
"""

import math

import torch
from torch import Generator, Tensor

from pretrain.masking.rules import CHUNK_SIDES, SPAN_STEPS, Grid, num_masked, uniform

MIN_SPANS = 2
"""Fewest spans of a clip."""


def chunk_official(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that mask as the published ``chunk_mask`` does.

    The whole batch has one mask and one side C of 3 to 5. Squares of C x C grow from a uniformly drawn flat index to
    the right and down, so they wrap around the mel edge into the next time steps, and the first tokens are rarely
    masked. Squares are drawn until they cover more tokens than are to be masked; the highest indices among these then
    stay visible.
    """
    device, tokens = generator.device, grid.tokens
    single = Grid(1, grid.steps, grid.mels)
    side = CHUNK_SIDES[0] + (uniform(single, generator, 1) * len(CHUNK_SIDES)).long()  # (1, 1)
    squares = 4 * tokens + 64  # far more than are ever needed: the published code draws until it has enough
    start = (uniform(single, generator, squares) * tokens).long()[0, :, None, None]
    offset = torch.arange(CHUNK_SIDES[-1], device=device)
    index = start + offset[:, None] + grid.mels * offset
    in_square = (offset < side).squeeze(0)
    index = torch.where(in_square[:, None] & in_square & (index < tokens), index, tokens).flatten()
    square = torch.arange(squares, device=device).repeat_interleave(CHUNK_SIDES[-1] ** 2)
    first = torch.full((tokens + 1,), squares, device=device).scatter_reduce(0, index, square, "amin")[:-1]
    last = first.sort().values[min(num_masked(tokens, mask_ratio), tokens - 1)]  # this square covers one token too many
    position = torch.arange(tokens, device=device)
    scores = torch.where(first <= last, position, tokens + position)
    return scores.float().expand(grid.batch, -1)


def spans_official(tokens: int, probability: float, padding: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The published ``retain_spans``: spans of 10 tokens as in wav2vec 2.0, but the tokens that they cover are KEPT.

    The share of kept tokens is about 1 - exp(-probability): 0.79 of 500 tokens with the 1.45 of the published
    instructions, which call this 75 % masking. Each row is cut at random to the smallest number of kept tokens in the
    batch, which tears its spans.

    Args:
        tokens: N.
        probability: expected number of spans times their length, per token.
        padding: (B, N) bool, True at tokens past a clip's end, which are never kept.
        generator: draws the spans.

    Returns:
        (B, K) indices of the visible and (B, N - K) of all other tokens, ascending.
    """
    noise = torch.rand(len(padding), tokens, generator=generator, device=generator.device)
    kept = kept_spans(probability, padding, generator)
    smallest = int(kept.sum(dim=1).min())
    order = torch.where(kept, noise, 2.0).argsort(dim=1)
    return order[:, :smallest].sort(dim=1).values, order[:, smallest:].sort(dim=1).values


def kept_spans(probability: float, padding: Tensor, generator: Generator) -> Tensor:
    """(B, N) bool, True where the spans of `spans_official` lie; none begins late enough to reach the last token."""
    device, (batch, tokens) = generator.device, padding.shape
    valid = (~padding).sum(dim=1, keepdim=True)
    noise = torch.rand(batch, tokens + 1, generator=generator, device=device)
    spans = (probability * valid / SPAN_STEPS + noise[:, :1]).long().clamp(min=MIN_SPANS)  # (B, 1)
    starts = torch.where(valid - SPAN_STEPS <= spans, spans + 1, valid - SPAN_STEPS)  # tokens at which one may begin
    index = torch.arange(tokens, device=device)
    rank = torch.where(index < starts, noise[:, 1:], 2.0).argsort(dim=1).argsort(dim=1)
    begins = ((rank < spans) & (index < starts)).long()
    begun = torch.nn.functional.pad(begins.cumsum(dim=1), (SPAN_STEPS, 0))
    return (begun[:, SPAN_STEPS:] > begun[:, :-SPAN_STEPS]) & ~padding


def spans_official_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that keep spans as `spans_official` does, but exactly 1 - mask_ratio of the tokens.

    The probability is the one that is expected to keep that share. A row with more kept tokens is cut at random, as
    published; a row with fewer is filled up at random.
    """
    padding = torch.zeros(grid.batch, grid.tokens, dtype=torch.bool, device=generator.device)
    kept = kept_spans(-math.log(mask_ratio), padding, generator)
    return kept + uniform(grid, generator)

"""The masks of the published code, with what is odd about them, for comparison. Source: upstream/mae_ast of s3prl.

A batch is what is drawn at once: in training `MASK_ROWS` rows, fewer on a CPU than on a GPU.
"""

import math

import torch
from torch import Generator, Tensor

from pretrain.masking.rules import CHUNK_SIDES, SPAN_STEPS, Grid, draw, num_masked

LEAST_SPANS = 2
"""Of a clip."""


def chunk_official(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that mask as the published ``chunk_mask`` does.

    One mask for the whole batch, one side C of 3 to 5. Squares of C x C grow from a uniform flat index to the right and
    down, so that they wrap around the mel edge into the next time steps, and the first tokens are rarely masked. They
    are drawn until they cover more tokens than are to be masked; the highest indices of these are then left visible.
    """
    device, tokens = generator.device, grid.tokens
    one = Grid(1, grid.steps, grid.mels)
    side = CHUNK_SIDES[0] + (draw(one, generator, 1) * len(CHUNK_SIDES)).long()  # (1, 1)
    squares = 4 * tokens + 64  # many more than ever needed: the published code draws on until it has enough
    start = (draw(one, generator, squares) * tokens).long()[0, :, None, None]
    offset = torch.arange(CHUNK_SIDES[-1], device=device)
    index = start + offset[:, None] + grid.mels * offset
    whole = (offset < side).squeeze(0)
    index = torch.where(whole[:, None] & whole & (index < tokens), index, tokens).flatten()
    number = torch.arange(squares, device=device).repeat_interleave(CHUNK_SIDES[-1] ** 2)
    first = torch.full((tokens + 1,), squares, device=device).scatter_reduce(0, index, number, "amin")[:-1]
    last = first.sort().values[min(num_masked(tokens, mask_ratio), tokens - 1)]  # the square that covers one too many
    place = torch.arange(tokens, device=device)
    scores = torch.where(first <= last, place, tokens + place)
    return scores.float().expand(grid.batch, -1)


def spans_official(tokens: int, probability: float, padding: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """The published ``retain_spans``: wav2vec 2.0's spans of 10 tokens, of which the code KEEPS what they cover.

    The share that is kept is about 1 - exp(-probability): 0.79 of 500 tokens with the 1.45 of the published
    instructions, which call this 75 % masking. Each row is cut at random to the smallest count of the batch, which
    tears its spans.

    Args:
        tokens: N.
        probability: expected spans times their length, a token.
        padding: (B, N) bool, True at tokens past a clip's end, which are never kept.
        generator: chance.

    Returns:
        (B, K) indices of the visible and (B, N - K) of all other tokens, ascending.
    """
    noise = torch.rand(len(padding), tokens, generator=generator, device=generator.device)
    kept = kept_spans(probability, padding, generator)
    least = int(kept.sum(dim=1).min())
    order = torch.where(kept, noise, 2.0).argsort(dim=1)
    return order[:, :least].sort(dim=1).values, order[:, least:].sort(dim=1).values


def kept_spans(probability: float, padding: Tensor, generator: Generator) -> Tensor:
    """(B, N) bool: what the spans of `spans_official` cover; none begins late enough to reach the last token."""
    device, (batch, tokens) = generator.device, padding.shape
    own = (~padding).sum(dim=1, keepdim=True)
    chance = torch.rand(batch, tokens + 1, generator=generator, device=device)
    spans = (probability * own / SPAN_STEPS + chance[:, :1]).long().clamp(min=LEAST_SPANS)  # (B, 1)
    starts = torch.where(own - SPAN_STEPS <= spans, spans + 1, own - SPAN_STEPS)  # the first so many tokens
    index = torch.arange(tokens, device=device)
    rank = torch.where(index < starts, chance[:, 1:], 2.0).argsort(dim=1).argsort(dim=1)
    begins = ((rank < spans) & (index < starts)).long()
    reach = torch.nn.functional.pad(begins.cumsum(dim=1), (SPAN_STEPS, 0))
    return (reach[:, SPAN_STEPS:] > reach[:, :-SPAN_STEPS]) & ~padding


def spans_official_scores(grid: Grid, mask_ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores that keep spans as `spans_official` does, but exactly 1 - mask_ratio of the tokens.

    With the probability that is expected to keep that share; a row with more is cut at random, as published, and one
    with fewer is filled up at random.
    """
    padding = torch.zeros(grid.batch, grid.tokens, dtype=torch.bool, device=generator.device)
    kept = kept_spans(-math.log(mask_ratio), padding, generator)
    return kept + draw(grid, generator)

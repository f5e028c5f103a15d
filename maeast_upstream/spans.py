"""The overlapping windows of a long clip, while its samples come block by block.

The windows are those of `window_starts` and `window_ranges`: a window's place does not depend on how long the clip is,
except for the last one, which ends with it. So all others can be processed before the clip's end is known.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from maeast_upstream.frontend import HOP_SAMPLES, WINDOW_SAMPLES, num_samples
from maeast_upstream.time_grid import TimeGrid, window_cut, window_ranges, window_starts


class WindowBatch(NamedTuple):
    """Windows of one of the shifted token grids, which the network gets together."""

    shift: int
    """Which grid: its first token begins ``shift`` hops after the padded clip."""
    length: int
    """Tokens of a window in time."""
    starts: list[int]
    """First token of each window."""
    ranges: list[tuple[int, int]]
    """Tokens (first, one past the last) that are taken from each window."""

    def samples(self, grid: TimeGrid) -> tuple[int, int]:
        """Where its windows begin and end in the padded clip."""
        begin = (self.shift * grid.hop + self.starts[0] * grid.patch_frames) * HOP_SAMPLES
        tokens = self.starts[-1] + self.length - self.starts[0]
        return begin, begin + num_samples(tokens * grid.patch_frames)


class Span(NamedTuple):
    """Consecutive windows of a long clip, and the samples that they cover. Together they have every time step once."""

    samples: Tensor
    """(n,) of the padded clip."""
    first_sample: int
    """Where they begin in it."""
    batches: list[WindowBatch]
    total_samples: int = 0
    """Samples of the padded clip; 0 before its last span."""


def cut_spans(blocks: Iterable[Tensor], grid: TimeGrid, length: int, batch: int) -> Iterator[Span]:
    """Cut a padded clip into spans, of which only the next one is in memory.

    Args:
        blocks: (n,) consecutive samples of the clip, together at least one token.
        grid: Where its time steps lie.
        length: Tokens of a window in time, even.
        batch: Windows of a batch.

    Yields:
        Spans with one batch of each shifted grid, then a last one with all windows that are left.
    """
    half = length // 2
    held = torch.empty(0)
    begin = end = done = 0
    for block in blocks:
        held = torch.cat([held, block]) if len(held) else block
        end += len(block)
        tokens = _tokens(end, grid)[-1]  # of the grid that has the fewest
        # of each window the next one must be known, too, because it tells where this one's tokens end
        for first in range(done, (tokens - length) // half // batch * batch, batch):
            starts = [number * half for number in range(first, first + batch)]
            cuts = [window_cut(start, start + half, length) for start in (starts[0] - half, *starts)]
            ranges = list(itertools.pairwise([cuts[0] if first else 0, *cuts[1:]]))
            yield _span(held, begin, [WindowBatch(shift, length, starts, ranges) for shift in range(grid.passes)], grid)
            done = first + batch
        origin = done * half * grid.patch_frames * HOP_SAMPLES
        held, begin = held[origin - begin :], origin
    left = [each for shift, count in enumerate(_tokens(end, grid)) for each in _left(shift, count, length, batch, done)]
    yield _span(held, begin, left, grid)._replace(total_samples=end)


def _tokens(samples: int, grid: TimeGrid) -> list[int]:
    """Tokens in time of each shifted grid in so many samples of a padded clip."""
    frames = (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1
    return [max(0, (frames - shift * grid.hop) // grid.patch_frames) for shift in range(grid.passes)]


def _left(shift: int, tokens: int, length: int, batch: int, done: int) -> Iterator[WindowBatch]:
    """Yield batches of the windows from number ``done`` on of a grid whose tokens are all known."""
    length = min(length, tokens)
    if not length:
        return
    starts = window_starts(tokens, length)
    ranges = window_ranges(starts, tokens, length)
    for first in range(done, len(starts), batch):
        part = slice(first, first + batch)
        yield WindowBatch(shift, length, starts[part], ranges[part])


def _span(held: Tensor, begin: int, batches: list[WindowBatch], grid: TimeGrid) -> Span:
    """Return the span of some batches; ``held`` are the samples from ``begin`` on."""
    firsts, stops = zip(*(batch.samples(grid) for batch in batches), strict=True)
    first, stop = min(firsts), max(stops)
    return Span(held[first - begin : stop - begin], first, batches)

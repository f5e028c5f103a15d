"""Several clips in one row of tokens, one behind the other: where each of them lies."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from maeast_upstream.device import to_device


class PackedRow:
    """The clips of a row of N tokens, which share the matrix products and nothing else.

    What the attention needs on a device is computed once and serves every layer.
    """

    def __init__(self, tokens: Sequence[int], device: torch.device) -> None:
        """Describe a row.

        Args:
            tokens: the tokens of each clip, none of them 0; their sum is N.
            device: where the row is.
        """
        self.tokens, self.device = list(tokens), device
        self.longest = max(self.tokens)

    @property
    def equal(self) -> bool:
        """Whether all clips have the same number of tokens."""
        return min(self.tokens) == self.longest

    @functools.cached_property
    def bounds(self) -> Tensor:
        """(clips + 1,) int32: the first token of each clip, and N."""
        ends = torch.tensor([0, *self.tokens]).cumsum(0)
        return to_device(ends.int(), self.device)

    @functools.cached_property
    def slots(self) -> Tensor:
        """(N,) int64: the index of each token where all clips are padded to the longest, one behind the other."""
        tokens = torch.tensor(self.tokens)
        shifts = torch.arange(len(tokens)) * self.longest - (tokens.cumsum(0) - tokens)
        return to_device(torch.arange(int(tokens.sum())) + shifts.repeat_interleave(tokens), self.device)

    @functools.cached_property
    def key_mask(self) -> Tensor:
        """(clips, 1, 1, longest) bool, True at the tokens that a padded clip has."""
        tokens = to_device(torch.tensor(self.tokens), self.device)
        return (torch.arange(self.longest, device=self.device) < tokens[:, None])[:, None, None]

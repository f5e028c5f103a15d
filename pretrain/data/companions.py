"""The clips that follow a short clip in its crop, or stand in for one that cannot be decoded."""

import numpy as np

from pretrain.data.drawing import draw_by_sums

REACH = 8
"""A neighbour of a clip is at most this many places before or after it in the corpus."""


class Companions:
    """The other clips of a corpus, as a crop needs them."""

    def __init__(self, kinds: np.ndarray, weights: np.ndarray, join_with: str) -> None:
        """Sort the clips by kind if companions are to be of the same one.

        Args:
            kinds: (clips,) kind of audio of each clip.
            weights: (clips,) how often each clip is drawn.
            join_with: which clips follow a clip in its crop: any, kind or neighbours, see `DataConfig.join_with`.
        """
        self.join_with, self._sums = join_with, weights.cumsum()
        if join_with == "any":
            return
        _, self._kinds, counts = np.unique(kinds, return_inverse=True, return_counts=True)
        self._by_kind, self._ends = self._kinds.argsort(kind="stable"), counts.cumsum()

    def any(self, random: np.random.Generator) -> int:
        """Any clip, by its weight."""
        return int(draw_by_sums(self._sums, 1, random)[0])

    def beside(self, clip: int, random: np.random.Generator) -> int:
        """A clip to follow ``clip`` in a crop; where it has no neighbour of its kind, one of its kind."""
        if self.join_with == "any":
            return self.any(random)
        kind = self._kinds[clip]
        if self.join_with == "neighbours":
            first = max(0, clip - REACH)
            near = first + np.flatnonzero(self._kinds[first : clip + REACH + 1] == kind)
            if len(near := near[near != clip]):
                return int(random.choice(near))
        # clips of one kind have one weight
        return int(random.choice(self._by_kind[self._ends[kind - 1] if kind else 0 : self._ends[kind]]))

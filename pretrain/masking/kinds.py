"""The kinds of mask by the names that a recipe gives them, and the mix that it asks for."""

from collections.abc import Mapping

from torch import Generator, Tensor

from pretrain.masking.published import chunk_official, spans_official_scores
from pretrain.masking.rules import Grid, Scores, chunk_scores, inverse_scores, mixed_scores, random_scores, span_scores

KINDS: dict[str, Scores] = {
    "random": random_scores,
    "chunk": chunk_scores,
    "span": span_scores,
    "inverse": inverse_scores,
    "chunk_official": chunk_official,
    "spans_official": spans_official_scores,
}


def recipe_scores(grid: Grid, shares: Mapping[str, float], ratio: float, generator: Generator) -> Tensor:
    """(B, N) scores by the mask types that are named in ``shares``, each used for its share of the clips."""
    types = [(KINDS[name], share) for name, share in shares.items()]
    return mixed_scores(types, grid, ratio, generator)

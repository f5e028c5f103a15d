"""The kinds of mask by the names that a recipe gives them, and the mix that it asks for."""

from torch import Generator, Tensor

from pretrain.config import MaskConfig
from pretrain.masking import (
    Grid,
    Scores,
    chunk_scores,
    inverse_scores,
    mixed_scores,
    random_scores,
    span_scores,
)
from pretrain.published_masks import chunk_official, spans_official_scores

KINDS: dict[str, Scores] = {
    "random": random_scores,
    "chunk": chunk_scores,
    "span": span_scores,
    "inverse": inverse_scores,
    "chunk_official": chunk_official,
    "spans_official": spans_official_scores,
}


def recipe_scores(grid: Grid, masking: MaskConfig, generator: Generator) -> Tensor:
    """(B, N) scores of the kinds of mask that a recipe names, each clip's by its share."""
    kinds = [(KINDS[kind], share) for kind, share in masking.shares.items()]
    return mixed_scores(kinds, grid, masking.ratio, generator)

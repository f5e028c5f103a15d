"""The mask types by the names that a recipe gives them."""

from pretrain.masking.published import chunk_official, spans_official_scores
from pretrain.masking.rules import Scores, chunk_scores, inverse_scores, random_scores, span_scores

MASK_TYPES: dict[str, Scores] = {
    "random": random_scores,
    "chunk": chunk_scores,
    "span": span_scores,
    "inverse": inverse_scores,
    "chunk_official": chunk_official,
    "spans_official": spans_official_scores,
}

"""The table of predictions: the labels that a classifier gives to each clip or window, with probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maeast_upstream.checks import check_number, quote
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.extract.arrow_columns import column
from maeast_upstream.extract.outputs import TableBuilder
from maeast_upstream.extract.table import Embedded, EmbeddingSpec

if TYPE_CHECKING:
    import pyarrow as pa

SCORE_PREFIX = "p_"
"""With all scores, the column of a label is called ``p_LABEL``."""


@dataclass(frozen=True, kw_only=True)
class PredictionSpec:
    """Which labels of a clip or window are kept."""

    top: int | None = None
    """The most that are kept, best first; None for one, or with multiple labels for all."""
    threshold: float | str | None = None
    """Least probability of a label that is kept; "chosen" for those that the classifier has chosen on valid, by label;
    None for 0, or with multiple labels for "chosen"."""
    all_scores: bool = False
    """Whether each clip or window gets one row, with its best label and the probability of every label."""

    def __post_init__(self) -> None:
        if self.top is not None:
            check_number("top", self.top, whole=True)
            if self.top < 1:
                raise ValueError(f"top must be at least 1, got {self.top}")
        if isinstance(self.threshold, str):
            if self.threshold != "chosen":
                raise ValueError(f"threshold must be a probability or chosen, got {quote(self.threshold)}")
        elif self.threshold is not None:
            check_number("threshold", self.threshold)
            if not 0 <= self.threshold <= 1:
                raise ValueError(f"threshold must be from 0 to 1, got {self.threshold:g}")
        if self.all_scores and (self.top is not None or self.threshold is not None):
            raise ValueError(
                "all scores have one row for each clip or window; give neither top nor threshold with them"
            )

    def thresholds(self, classifier: Classifier) -> np.ndarray:
        """Return the least probability of each label, (K,) float32."""
        threshold = self.threshold
        if threshold is None:
            threshold = "chosen" if classifier.multi_label else 0.0
        if isinstance(threshold, str):
            return classifier.thresholds
        return np.full(len(classifier.labels), threshold, np.float32)


class Labelled(NamedTuple):
    """Labels of n clips or windows."""

    rows: np.ndarray
    """(m,) int64: the clip or window that each label belongs to, ascending."""
    labels: np.ndarray
    """(m,) int64: its number among the classifier's labels; those of a clip or window are sorted, best first."""
    probabilities: np.ndarray
    """(m,) float32."""
    margins: np.ndarray
    """(m,) float32, see `margins_of`."""


def label_rows(classifier: Classifier, probabilities: np.ndarray, spec: PredictionSpec) -> Labelled:
    """Choose the labels of (n, K) probabilities.

    Labels of equal probability are in the order of the classifier's. With ``all_scores`` there is one for each row.
    """
    top = 1 if spec.all_scores else spec.top or (len(classifier.labels) if classifier.multi_label else 1)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(probabilities, order, axis=1)
    kept = np.ones_like(best, bool) if spec.all_scores else best >= spec.thresholds(classifier)[order]
    rows, columns = np.nonzero(kept)
    return Labelled(rows, order[rows, columns], best[rows, columns], margins_of(classifier, probabilities)[rows])


def margins_of(classifier: Classifier, probabilities: np.ndarray) -> np.ndarray:
    """Measure how sure each row of (n, K) probabilities is: (n,) float32; the smallest are worth a look first.

    Without multiple labels it is the best minus the second-best probability (margin sampling: Scheffer et al., "Active
    hidden Markov models for information extraction", 2001); with them the least distance to a label's threshold.
    """
    if classifier.multi_label:
        distances: np.ndarray = np.abs(probabilities - classifier.thresholds).min(axis=1)
        return distances
    second, best = np.partition(probabilities, -2, axis=1)[:, -2:].T
    margins: np.ndarray = best - second
    return margins


class PredictionTableBuilder(TableBuilder):
    """Makes rows of predictions from embeddings."""

    def __init__(
        self, classifier: Classifier, embedding: EmbeddingSpec, prediction: PredictionSpec, metadata: dict[str, str]
    ) -> None:
        """Make the schema.

        Args:
            classifier: Gives the labels.
            embedding: The scene embeddings that it reads, of one readout.
            prediction: Which labels are kept.
            metadata: Of the schema.
        """
        super().__init__(prediction_schema(classifier, prediction, metadata), embedding)
        self.classifier, self.prediction = classifier, prediction

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """Return the rows of clips or windows, in their order."""
        return self.predict(
            np.concatenate([clip.vectors[0] for clip in clips]),
            path=[clip.path for clip in clips],
            segment=[clip.segment for clip in clips],
            start_ms=[clip.start_ms for clip in clips],
            end_ms=[clip.end_ms for clip in clips],
        )

    def predict(self, vectors: np.ndarray, **clips: Sequence[Any] | np.ndarray) -> "pa.Table":
        """Return the rows of (n, E) vectors; ``clips`` are the columns path, segment, start_ms and end_ms, n each."""
        import pyarrow as pa

        probabilities = self.classifier.probabilities(vectors)
        found = label_rows(self.classifier, probabilities, self.prediction)
        # as objects, paths of different lengths take no more memory than their text
        kinds = {"path": object}
        columns: dict[str, Any] = {
            name: np.array(values, kinds.get(name))[found.rows] for name, values in clips.items()
        }
        names = np.array(self.classifier.labels, object)
        columns |= {"label": names[found.labels], "probability": found.probabilities, "margin": found.margins}
        if self.prediction.all_scores:
            columns |= score_columns(self.classifier, probabilities)
        return pa.table([column(columns[field.name], field.type) for field in self.schema], schema=self.schema)


def prediction_schema(classifier: Classifier, spec: PredictionSpec, metadata: dict[str, str]) -> "pa.Schema":
    """Return the columns of a table of predictions."""
    import pyarrow as pa

    columns = [("path", pa.string()), ("segment", pa.int64()), ("start_ms", pa.float64()), ("end_ms", pa.float64())]
    columns += [("label", pa.string()), ("probability", pa.float32()), ("margin", pa.float32())]
    if spec.all_scores:
        columns += [(SCORE_PREFIX + label, pa.float32()) for label in classifier.labels]
    return pa.schema(columns, metadata=metadata)


def score_columns(classifier: Classifier, probabilities: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the columns of all labels of (n, K) probabilities, by name."""
    return {SCORE_PREFIX + label: column for label, column in zip(classifier.labels, probabilities.T, strict=True)}

"""How well a classifier does on labelled clips: accuracy, average precision, precision and recall by label."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores on some rows, each a clip or a window of one."""

    accuracy: float
    """Share of the rows with the right label; with multi_label, of those with exactly the right labels."""
    mean_average_precision: float
    """Mean over the labels that occur of the area under precision against recall."""
    labels: dict[str, dict[str, Any]]
    """By label: clips, precision, recall and average_precision; a share without a denominator is None."""
    confusion: np.ndarray
    """(K, K) counts by label and by found label; with multi_label (K, 4) counts: found, missed, wrongly found, rightly
    not found."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without the confusion matrix."""
        means = {"accuracy": self.accuracy, "mean_average_precision": self.mean_average_precision}
        return {**means, "labels": self.labels}


def found_labels(probabilities: np.ndarray, thresholds: np.ndarray, multi_label: bool) -> np.ndarray:
    """Return (n, K) bool: the most probable label of each row, or with multi_label those from their threshold."""
    if multi_label:
        return np.asarray(probabilities >= thresholds)
    return np.asarray(np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None])


def average_precisions(ranking: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the average precision of each label, (K,), NaN for a label that does not occur.

    Args:
        ranking: (n, K) probabilities, or logits of independent labels.
        targets: (n, K): 1 where the row has the label, else 0.
    """
    from sklearn.metrics import average_precision_score

    columns = zip(targets.T, ranking.T, strict=True)
    return np.array([average_precision_score(*column) if column[0].any() else np.nan for column in columns])


def score(
    labels: tuple[str, ...],
    probabilities: np.ndarray,
    thresholds: np.ndarray,
    targets: np.ndarray,
    multi_label: bool,
) -> Scores:
    """Score (n, K) probabilities against (n, K) targets, 1 where the row has the label and 0 elsewhere."""
    is_true, found = targets > 0, found_labels(probabilities, thresholds, multi_label)
    hits, positives, answers = (is_true & found).sum(axis=0), is_true.sum(axis=0), found.sum(axis=0)
    precisions = average_precisions(probabilities, targets)
    table = {
        label: {
            "clips": int(positives[k]),
            "precision": share(hits[k], answers[k]),
            "recall": share(hits[k], positives[k]),
            "average_precision": None if np.isnan(precisions[k]) else float(precisions[k]),
        }
        for k, label in enumerate(labels)
    }
    if multi_label:
        confusion = np.stack([hits, positives - hits, answers - hits, len(targets) - positives - answers + hits], 1)
    else:
        confusion = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(confusion, (targets.argmax(axis=1), probabilities.argmax(axis=1)), 1)
    accuracy = float((is_true == found).all(axis=1).mean())
    return Scores(accuracy, float(np.nanmean(precisions)), table, confusion)


def share(part: int, whole: int) -> float | None:
    """Return a share; None where it has no denominator."""
    return float(part / whole) if whole else None

"""The linear probe: logistic regression on frozen embeddings.

Protocol: one vector per clip; each dimension is standardized on train; multinomial logistic regression with an L2
penalty is fitted on train for each C of a grid; the C with the best valid accuracy is chosen, in a tie the smallest;
test is scored once with it. If several readouts are tried, the one with the best mean valid accuracy over the sets is
chosen, and only its test accuracies are reported.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation.features import embeddings
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.messages import install_extra
from maeast_upstream.readout import Readout

C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty."""
MAX_STANDARD_DEVIATIONS = 20.0
"""Standardized values are clipped here, so that a clip far outside the range of train does no harm."""


@dataclass(frozen=True)
class Score:
    """A probe's accuracies, in per cent."""

    valid: float
    test: float
    c: float
    """The chosen inverse strength of the penalty."""


@dataclass(frozen=True)
class FittedProbe:
    """The classifier with the best valid accuracy."""

    model: Any
    """A fitted `sklearn.linear_model.LogisticRegression`."""
    test_features: np.ndarray
    """(test clips, dimensions), standardized."""
    valid: float
    """Accuracy on valid, in per cent."""
    c: float
    """The chosen inverse strength of the penalty."""

    def correct(self, labels: np.ndarray) -> np.ndarray:
        """Classify the test clips, whose (test clips,) labels are given; (test clips,) bool, True where right."""
        right: np.ndarray = self.model.predict(self.test_features) == labels
        return right


def probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Score:
    """Fit the probe and score it on test.

    Args:
        features: (clips, dimensions).
        labels: (clips,) strings.
        splits: (clips,) strings: train, valid or test.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    fitted = fit_probe(features, labels, splits)
    return Score(fitted.valid, 100 * float(fitted.correct(labels[splits == "test"]).mean()), fitted.c)


def valid_accuracies(labelled_set: LabelledSet, encoder: Encoder, readouts: Sequence[Readout]) -> dict[Readout, float]:
    """Return each readout's valid accuracy in per cent; test clips are not even decoded."""
    kept = labelled_set.splits != "test"
    features = embeddings(list(itertools.compress(labelled_set.paths, kept)), encoder, readouts)
    labels, splits = labelled_set.labels[kept], labelled_set.splits[kept]
    return {readout: fit_probe(features[readout], labels, splits).valid for readout in readouts}


def fit_probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> FittedProbe:
    """Fit the probe without scoring test, which may be empty; the arguments are those of `probe`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"maeast probe needs scikit-learn: {install_extra('probe')}") from error
    x = standardize(features, splits == "train")
    train, valid = ((x[splits == split], labels[splits == split]) for split in ("train", "valid"))
    best: FittedProbe | None = None
    # thousands of small products, whose threads wait for each other: two took 30 times as long on a busy machine
    with threadpool_limits(1):
        for c in C_GRID:
            model = LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(*train)
            accuracy = 100 * model.score(*valid)
            if best is None or accuracy > best.valid:
                best = FittedProbe(model, x[splits == "test"], accuracy, c)
    assert best is not None
    return best


def standardize(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Standardize by the train rows, and reduce to at most as many dimensions as there are train rows.

    With an L2 penalty the solution lies in the span of the train rows: rotating to their principal axes changes
    nothing but the size. The axes come from the rows' products, a small matrix.

    Args:
        features: (clips, dimensions).
        train: (clips,) bool.

    Returns:
        (clips, at most train clips) float64 with zero mean and unit standard deviation on the train rows.
    """
    x = features.astype(np.float64)
    x -= x[train].mean(axis=0)
    deviation = x[train].std(axis=0)
    x /= np.where(deviation > 1e-8, deviation, 1.0)
    np.clip(x, -MAX_STANDARD_DEVIATIONS, MAX_STANDARD_DEVIATIONS, out=x)
    if x.shape[1] <= train.sum():
        return x
    products = x @ x[train].T  # (clips, train clips)
    values, vectors = np.linalg.eigh(products[train])
    kept = values > 1e-12 * values[-1]
    rotated: np.ndarray = products @ (vectors[:, kept] / np.sqrt(values[kept]))
    return rotated

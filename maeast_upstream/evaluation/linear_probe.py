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

from maeast_upstream.classification.logistic import C_GRID
from maeast_upstream.classification.standardize import Standardization, principal_axes
from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation.features import embeddings
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.evaluation.saving import Head
from maeast_upstream.messages import install_extra
from maeast_upstream.readout import Readout


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
    standardization: Standardization
    """Of the train clips."""
    axes: np.ndarray | None
    """(dimensions, R): what the standardized vectors were multiplied with; None for nothing."""
    valid_features: np.ndarray
    """(valid clips, R), standardized."""

    def correct(self, labels: np.ndarray) -> np.ndarray:
        """Classify the test clips, whose (test clips,) labels are given; (test clips,) bool, True where right."""
        right: np.ndarray = self.model.predict(self.test_features) == labels
        return right

    @property
    def head(self) -> Head:
        """The classifier of vectors as they are before they are standardized."""
        weight, bias = self.model.coef_, self.model.intercept_
        if len(weight) == 1:  # of two classes scikit-learn has the logit of the second one only
            weight, bias = np.vstack([np.zeros_like(weight), weight]), np.append(0.0, bias)
        return Head(weight if self.axes is None else weight @ self.axes.T, bias, self.standardization)

    @property
    def valid_logits(self) -> np.ndarray:
        """(valid clips, classes)."""
        logits: np.ndarray = self.model.decision_function(self.valid_features)
        return logits if logits.ndim == 2 else np.stack([np.zeros_like(logits), logits], axis=1)


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
        ValueError: scikit-learn is not installed; all train clips have the same vector.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"maeast probe needs scikit-learn: {install_extra('probe')}") from error
    is_train = splits == "train"
    standardization = Standardization.of(features[is_train])
    x, axes = standardization(features), None
    if x.shape[1] > is_train.sum():
        axes, _ = principal_axes(x[is_train])
        x = x @ axes
        if not x.shape[1]:
            raise ValueError("all train clips have the same vector, from which no classifier can learn")
    train, valid = ((x[splits == split], labels[splits == split]) for split in ("train", "valid"))
    best: FittedProbe | None = None
    # thousands of small products, whose threads wait for each other: two took 30 times as long on a busy machine
    with threadpool_limits(1):
        for c in C_GRID:
            model = LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(*train)
            accuracy = 100 * model.score(*valid)
            if best is None or accuracy > best.valid:
                best = FittedProbe(model, x[splits == "test"], accuracy, c, standardization, axes, valid[0])
    assert best is not None
    return best

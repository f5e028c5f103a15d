"""``maeast probe``: how well a linear classifier reads labels from frozen embeddings.

Protocol: one vector a clip; every dimension standardised on train; multinomial logistic regression
with an L2 penalty fitted on train for each C; the C with the best valid accuracy, in a tie the
smaller; the test accuracy is read once. Of several readouts the one with the best mean valid
accuracy over the sets is taken, and only its test accuracies are given out.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation.features import embeddings
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Readout

C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty."""


MAX_DEVIATIONS = 20.0
"""Standardised values are clipped here: a clip far outside the train split's range does no harm."""


@dataclass(frozen=True)
class Score:
    """A probe's accuracies, in per cent."""

    valid: float
    test: float
    c: float
    """The chosen inverse strength of the penalty."""


Table = Mapping[str, list[Score]]
"""By readout the scores on each set."""


def probe_sets(
    sets: Sequence[LabelledSet], encoder: Encoder, readouts: Sequence[Readout]
) -> dict[Readout, list[Score]]:
    """Probe every set with every readout; the network sees each clip once for each hop.

    ``best_readout`` chooses of the result on valid; the other readouts' test accuracies are there
    but nobody should look at them.
    """
    table: dict[Readout, list[Score]] = {readout: [] for readout in readouts}
    for one in sets:
        features = embeddings(one.paths, encoder, readouts)
        for readout in progress_bar(table, desc=f"{one.name}: fit", leave=False):
            table[readout].append(probe(features.pop(readout), one.labels, one.splits))
    return table


def valid_accuracies(one: LabelledSet, encoder: Encoder, readouts: Sequence[Readout]) -> dict[Readout, float]:
    """By readout the best valid accuracy over the penalties, in per cent; test clips are not even decoded."""
    kept = one.splits != "test"
    features = embeddings(list(itertools.compress(one.paths, kept)), encoder, readouts)
    return {readout: fit_probe(features[readout], one.labels[kept], one.splits[kept]).valid for readout in readouts}


def probe_features(one: LabelledSet, features: Callable[[Sequence[Path]], np.ndarray]) -> Score:
    """Probe one set with ``features``, which turns the clips' paths into (clips, dimensions)."""
    return probe(features(one.paths), one.labels, one.splits)


def probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> Score:
    """Fit the probe on one set.

    Args:
        features: (clips, dimensions).
        labels: (clips,) strings.
        splits: (clips,) train, valid or test.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    fitted = fit_probe(features, labels, splits)
    test = splits == "test"
    return Score(fitted.valid, 100 * fitted.model.score(fitted.x[test], labels[test]), fitted.c)


@dataclass(frozen=True)
class FittedProbe:
    """The classifier that valid chose."""

    model: Any
    """scikit-learn's."""
    x: np.ndarray
    """(clips, dimensions) what it reads, standardised."""
    valid: float
    """Accuracy, in per cent."""
    c: float
    """The chosen inverse strength of the penalty."""


def fit_probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> FittedProbe:
    """All of `probe` but the reading of test, of which there may be no clip.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError("maeast probe needs scikit-learn: pip install 'maeast-upstream[probe]'") from error
    x = standardise(features, splits == "train")
    train, valid = ((x[splits == split], labels[splits == split]) for split in ("train", "valid"))
    best: FittedProbe | None = None
    # thousands of small products, whose threads wait for each other: two took 30 times as long on a busy machine
    with threadpool_limits(1):
        for c in C_GRID:
            model = LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(*train)
            accuracy = 100 * model.score(*valid)
            if best is None or accuracy > best.valid:
                best = FittedProbe(model, x, accuracy, c)
    assert best is not None
    return best


def standardise(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Zero mean, unit deviation on the train rows; no more dimensions than there are train rows.

    With an L2 penalty the solution lies in the span of the train rows: rotated to their principal
    axes nothing changes but the size. The axes come from the rows' products, a small matrix.
    """
    x = features.astype(np.float64)
    x -= x[train].mean(axis=0)
    deviation = x[train].std(axis=0)
    x /= np.where(deviation > 1e-8, deviation, 1.0)
    np.clip(x, -MAX_DEVIATIONS, MAX_DEVIATIONS, out=x)
    if x.shape[1] <= train.sum():
        return x
    products = x @ x[train].T  # (clips, train clips)
    values, vectors = np.linalg.eigh(products[train])
    kept = values > 1e-12 * values[-1]
    rotated: np.ndarray = products @ (vectors[:, kept] / np.sqrt(values[kept]))
    return rotated


def best_readout(table: Mapping[Any, list[Score]]) -> Any:
    """The key of `probe_sets`' table with the best mean valid accuracy; in a tie the first."""
    return max(table, key=lambda readout: mean_valid(table[readout]))


def mean_valid(scores: Sequence[Score]) -> float:
    """Over the sets, in per cent."""
    return float(np.mean([score.valid for score in scores]))

"""Fits logistic regression on labelled vectors: chooses the penalty on valid, or by cross-validation without one.

Everything is done with one thread of linear algebra, and folds beside each other, so that the same vectors give the
same bits on any number of cores of a machine.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from maeast_upstream.classification.logistic import C_GRID, Linear, fit_path
from maeast_upstream.classification.metrics import average_precisions
from maeast_upstream.classification.standardize import Standardization, principal_axes
from maeast_upstream.messages import install_extra

FOLDS, FEWER_FOLDS, MANY_CLIPS = 5, 3, 5000
"""Parts of cross-validation, and that from so many clips on: the more clips, the less is gained by a larger train."""
PATIENCE, LESS_PATIENCE = 2, 1
"""Strengths of the penalty in a row whose scores are worse than the best, after which no weaker one is tried: weak ones
need the most steps. Many clips give scores without noise, so that the first worse one tells enough."""


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier before calibration, and what it says of clips that it was not fitted on."""

    standardization: Standardization
    weight: np.ndarray
    """(K, E) float64, of standardized vectors."""
    bias: np.ndarray
    """(K,) float64."""
    c: float
    """The chosen inverse strength of the penalty."""
    held_out: np.ndarray
    """(m, K) logits: of the valid rows, or in cross-validation of all train rows, each by the fit without its fold."""
    by_c: dict[float, float]
    """The score of the held-out rows for each strength that was tried: accuracy, or with multi_label mean average
    precision."""


def refuse_no_sklearn() -> None:
    """Raise ValueError if scikit-learn is not installed; call it before the work."""
    try:
        import sklearn.metrics  # noqa: F401
    except ImportError as error:
        raise ValueError(f"maeast fit needs scikit-learn: {install_extra('probe')}") from error


def fit(
    train: np.ndarray,
    targets: np.ndarray,
    valid: tuple[np.ndarray, np.ndarray] | None,
    folds: np.ndarray | None,
    *,
    multi_label: bool,
    balance: bool = False,
) -> Fitted:
    """Fit for growing strengths, see `choose`, and take the one with the best score; in a tie the smallest.

    Args:
        train: (n, E) vectors.
        targets: (n, K): 1 where the row has the label, else 0.
        valid: (m, E) vectors and (m, K) targets that choose the strength; None for cross-validation.
        folds: (n,) numbers of the folds of cross-validation, see `stratified_folds`; None with ``valid``.
        multi_label: whether each label is fitted against its absence.
        balance: whether rare labels get as much weight as frequent ones.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    refuse_no_sklearn()  # and load it before the limit, which holds for libraries that are loaded
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        standardization = Standardization.of(train)
        x = standardization(train)
        axes, variances = principal_axes(x)
        rotated = x @ axes
        del x

        def path(rows: np.ndarray) -> Iterator[Linear]:
            weights = class_weights(targets[rows], multi_label) if balance else np.ones((int(rows.sum()), 1))
            return fit_path(rotated[rows], targets[rows], weights, variances, multi_label)

        everything = np.ones(len(train), bool)
        if valid is not None:
            answers = valid[1]
            parts = [Part(path(everything), standardization(valid[0]) @ axes, np.ones(len(answers), bool))]
        else:
            assert folds is not None
            answers = targets
            held = [folds == number for number in np.unique(folds)]
            parts = [Part(path(~rows), rotated[rows], rows) for rows in held]
        best, linears, held_out, by_c = choose(parts, answers, multi_label)
        if valid is None:
            linears = list(itertools.islice(path(everything), C_GRID.index(best) + 1))
        return Fitted(standardization, linears[-1].weight @ axes.T, linears[-1].bias, best, held_out, by_c)


class Part(NamedTuple):
    """One of the fits that choose the penalty."""

    path: Iterator[Linear]
    """The minimum for each strength of the penalty."""
    held: np.ndarray
    """(h, R) rotated rows that it was not fitted on."""
    rows: np.ndarray
    """(m,) bool: which of all held-out rows they are."""


def choose(
    parts: Sequence[Part], answers: np.ndarray, multi_label: bool
) -> tuple[float, list[Linear], np.ndarray, dict[float, float]]:
    """Weaken the penalty step by step, until `PATIENCE` or `LESS_PATIENCE` steps were worse than the best.

    Args:
        parts: fits whose held-out rows are all rows together.
        answers: (m, K) targets of the held-out rows.
        multi_label: what they are scored by, see `score_of`.

    Returns:
        The chosen strength, the fits with it, their (m, K) logits of the held-out rows, and the score by strength.
    """
    by_c: dict[float, float] = {}
    patience = PATIENCE if len(answers) < MANY_CLIPS else LESS_PATIENCE
    best, chosen, held_out = C_GRID[0], list[Linear](), np.empty(answers.shape)
    with ThreadPoolExecutor(min(len(parts), usable_cores())) as pool:
        for number, c in enumerate(C_GRID):
            linears = list(pool.map(lambda part: next(part.path), parts))
            logits = np.empty(answers.shape)
            for part, linear in zip(parts, linears, strict=True):
                logits[part.rows] = linear.logits(part.held)
            by_c[c] = score_of(logits, answers, multi_label)
            if not chosen or by_c[c] > by_c[best]:
                best, chosen, held_out = c, linears, logits
            recent = C_GRID[max(0, number + 1 - patience) : number + 1]
            if all(by_c[later] < by_c[best] for later in recent):
                break
    return best, chosen, held_out, by_c


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def score_of(logits: np.ndarray, targets: np.ndarray, multi_label: bool) -> float:
    """Return what the penalty is chosen by: the accuracy, or with multi_label the mean average precision."""
    if multi_label:
        return float(np.nanmean(average_precisions(logits, targets)))
    return float((logits.argmax(axis=1) == targets.argmax(axis=1)).mean())


def class_weights(targets: np.ndarray, multi_label: bool) -> np.ndarray:
    """Return weights by which the labels, or with multi_label presence and absence, have equal sums: (n, K) or (n, 1).

    Their mean is 1, as that of scikit-learn's ``class_weight="balanced"``.
    """
    n = len(targets)
    if not multi_label:
        counts = np.maximum(targets.sum(axis=0), 1)
        present = int((targets.sum(axis=0) > 0).sum())
        return np.asarray((targets / (present * counts / n)).sum(axis=1, keepdims=True))
    counts = targets.sum(axis=0)
    positive, negative = n / (2 * np.maximum(counts, 1)), n / (2 * np.maximum(n - counts, 1))
    return np.asarray(np.where(targets > 0, positive, negative))


def stratified_folds(targets: np.ndarray, seed: int) -> np.ndarray:
    """Return the number of the fold of each clip, drawn so that each label is spread over the folds.

    Args:
        targets: (clips, K); a clip with several labels counts under its rarest.
        seed: of the draw.

    Returns:
        (clips,) whole numbers from 0.
    """
    counts = targets.sum(axis=0)
    rarest = np.where(targets > 0, counts, np.inf).argmin(axis=1)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(targets)), rarest))
    folds = np.empty(len(targets), np.int64)
    # dealt out like cards, label by label: the clips of a label differ by at most one between two folds
    folds[order] = np.arange(len(targets)) % (FOLDS if len(targets) < MANY_CLIPS else FEWER_FOLDS)
    return folds

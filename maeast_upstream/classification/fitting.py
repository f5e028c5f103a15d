"""Fits logistic regression on labelled vectors: chooses the penalty on valid, or by cross-validation without one.

Everything is done with one thread of linear algebra, and folds beside each other, so that the same vectors give the
same bits on any number of cores of a machine.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from maeast_upstream.classification.logistic import C_GRID, Linear, fit_path
from maeast_upstream.classification.metrics import average_precisions
from maeast_upstream.classification.standardize import Standardization, principal_axes
from maeast_upstream.messages import install_extra

FOLDS, FEWER_FOLDS, MANY_CLIPS = 5, 3, 5000
"""Parts of cross-validation, and that from so many clips on: the more clips, the less is gained by a larger train."""


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
    """The score of the held-out rows for each strength: accuracy, or with multi_label mean average precision."""


def fit(
    train: np.ndarray,
    targets: np.ndarray,
    valid: tuple[np.ndarray, np.ndarray] | None,
    folds: np.ndarray | None,
    *,
    multi_label: bool,
    balance: bool = False,
) -> Fitted:
    """Fit for each strength of the penalty, and choose the one with the best score; in a tie the smallest.

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
    try:
        import sklearn.metrics  # noqa: F401  # before the limit, which holds for libraries that are loaded
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"maeast fit needs scikit-learn: {install_extra('probe')}") from error
    with threadpool_limits(1):
        standardization = Standardization.of(train)
        x = standardization(train)
        axes, variances = principal_axes(x)
        rotated = (x @ axes).astype(np.float32)
        del x

        def path(rows: np.ndarray) -> list[Linear]:
            weights = class_weights(targets[rows], multi_label) if balance else np.ones((int(rows.sum()), 1))
            return list(fit_path(rotated[rows], targets[rows], weights, variances, multi_label))

        everything = np.ones(len(train), bool)
        if valid is not None:
            paths, answers = path(everything), valid[1]
            held_rows = (standardization(valid[0]) @ axes).astype(np.float32)
            held_out = [linear.logits(held_rows) for linear in paths]
        else:
            assert folds is not None
            answers, held_out = targets, cross_validate(rotated, folds, path)
        by_c = {c: score_of(logits, answers, multi_label) for c, logits in zip(C_GRID, held_out, strict=True)}
        best = max(range(len(C_GRID)), key=lambda number: (by_c[C_GRID[number]], -number))
        linear = paths[best] if valid is not None else path(everything)[best]
        return Fitted(standardization, linear.weight @ axes.T, linear.bias, C_GRID[best], held_out[best], by_c)


def cross_validate(
    rotated: np.ndarray, folds: np.ndarray, path: Callable[[np.ndarray], list[Linear]]
) -> list[np.ndarray]:
    """Return, for each strength of the penalty, the (n, K) logits of all rows by the fits without their folds."""
    numbers = np.unique(folds)
    with ThreadPoolExecutor(min(len(numbers), usable_cores())) as pool:
        paths = list(pool.map(lambda number: path(folds != number), numbers))
    held_out = [np.empty((len(rotated), len(paths[0][0].bias))) for _ in C_GRID]
    for number, linears in zip(numbers, paths, strict=True):
        rows = folds == number
        for logits, linear in zip(held_out, linears, strict=True):
            logits[rows] = linear.logits(rotated[rows])
    return held_out


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

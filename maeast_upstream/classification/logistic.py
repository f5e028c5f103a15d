"""Logistic regression with an L2 penalty, of one label per clip or of many, on standardized vectors.

The minimum is that of scikit-learn's `LogisticRegression`; it is reached in a tenth of the time, because the vectors
are rotated to their principal axes first, which changes nothing but the coordinates. There, a rescaled dimension has
nearly the same curvature as every other, so that L-BFGS needs few steps; all labels are fitted in the same products;
and each strength of the penalty starts from the minimum of the one before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty, in scikit-learn's unit: they multiply the sum of the clips' losses."""
MAX_STEPS = 3000
TOLERANCE = 1e-5
"""Largest slope at the minimum, of the mean loss, along any rescaled dimension."""


@dataclass(frozen=True)
class Linear:
    """Weights of logits along the principal axes."""

    weight: np.ndarray
    """(K, R) float64."""
    bias: np.ndarray
    """(K,) float64."""

    def logits(self, rotated: np.ndarray) -> np.ndarray:
        """Return the (n, K) float64 logits of (n, R) rotated rows."""
        result: np.ndarray = rotated @ self.weight.T.astype(rotated.dtype) + self.bias
        return result


def fit_path(
    rotated: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    variances: np.ndarray,
    multi_label: bool,
    grid: Sequence[float] = C_GRID,
) -> Iterator[Linear]:
    """Yield the minimum for each strength of the penalty, in the order of ``grid``, which should ascend.

    Args:
        rotated: (n, R) standardized vectors along their `principal_axes`.
        targets: (n, K) float64: 1 where the clip has the label, else 0.
        weights: (n, K) float64 weights of the losses, or (n, 1) for all labels; without multi_label the latter.
        variances: (R,) mean squares along the axes, about those of ``rotated``; they affect the speed only.
        multi_label: whether each label is fitted against its absence, rather than against the other labels.
        grid: inverse strengths.
    """
    from scipy.optimize import minimize

    n, classes = targets.shape
    shares = (weights * targets).sum(axis=0) / (weights.sum(axis=0))
    curvature = max(float((shares * (1 - shares)).mean()), 1e-6)
    losses = independent_losses if multi_label else exclusive_losses
    start = np.zeros((classes, rotated.shape[1] + 1))
    for c in grid:
        penalty = 1 / (c * n)
        scale = 1 / np.sqrt(np.append(curvature * variances + penalty, curvature))

        objective = _Objective(rotated, targets, weights, scale, penalty, losses)
        options = {"maxiter": MAX_STEPS, "gtol": TOLERANCE, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
        found = minimize(objective, (start / scale).ravel(), jac=True, method="L-BFGS-B", options=options)
        start = found.x.reshape(classes, -1) * scale
        yield Linear(start[:, :-1].copy(), start[:, -1].copy())


def exclusive_losses(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (n, 1) cross-entropies of the softmax of (n, K) logits, and their (n, K) slopes."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(targets * logs).sum(axis=1, keepdims=True), np.exp(logs) - targets


def independent_losses(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (n, K) binary cross-entropies of the sigmoid of (n, K) logits, and their (n, K) slopes."""
    return np.logaddexp(0.0, logits) - targets * logits, np.exp(-np.logaddexp(0.0, -logits)) - targets


@dataclass(frozen=True)
class _Objective:
    """The mean loss and the penalty as a function of rescaled parameters, K rows of R weights and a bias."""

    rotated: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    scale: np.ndarray
    penalty: float
    losses: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        n, classes = self.targets.shape
        parameters = flat.reshape(classes, -1) * self.scale
        linear = Linear(parameters[:, :-1], parameters[:, -1])
        losses, errors = self.losses(linear.logits(self.rotated), self.targets)
        errors = errors * self.weights / n
        slope = np.empty_like(parameters)
        slope[:, :-1] = errors.T.astype(self.rotated.dtype) @ self.rotated
        slope[:, :-1] += self.penalty * linear.weight
        slope[:, -1] = errors.sum(axis=0)
        value = float((losses * self.weights).sum()) / n
        return value + 0.5 * self.penalty * float(np.vdot(linear.weight, linear.weight)), (slope * self.scale).ravel()

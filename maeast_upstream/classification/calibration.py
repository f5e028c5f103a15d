"""Calibration on clips that a classifier was not fitted on: a temperature, and a threshold for each label."""

import numpy as np

from maeast_upstream.classification.logistic import exclusive_losses, independent_losses

MAX_LOG_TEMPERATURE = 5.0
ROUNDS = 5
"""Of a search in which each is ten times finer than the one before; the loss has a single minimum."""


def fit_temperature(logits: np.ndarray, targets: np.ndarray, multi_label: bool) -> float:
    """Return the temperature with the smallest mean loss.

    Targets are smoothed as by Platt, as if there were one clip more with an unknown label: few clips that are all
    classified rightly would else ask for probabilities of 1.
    Sources: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), section 4.2; Platt, Probabilistic Outputs
    for Support Vector Machines (1999), section 2.2.

    Args:
        logits: (n, K) of held-out clips.
        targets: (n, K): 1 where the clip has the label, else 0.
        multi_label: whether each label has a probability of its own.
    """
    n, classes = targets.shape
    unknown = 0.5 if multi_label else 1 / classes
    smoothed = (n * targets + unknown) / (n + 1)
    losses = independent_losses if multi_label else exclusive_losses

    def mean_loss(log_temperature: float) -> float:
        return float(losses(logits / np.exp(log_temperature), smoothed)[0].mean())

    best = 0.0
    for number in range(ROUNDS):
        tried = best + MAX_LOG_TEMPERATURE / 10**number * np.linspace(-1, 1, 21)
        best = min(tried.tolist(), key=mean_loss)
    return float(np.exp(best))


def best_thresholds(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return each label's probability from which it counts as present: (K,) with the best F1; 0.5 for an absent label.

    A threshold lies in the middle between two probabilities of held-out clips; of equally good ones it is the highest.

    Args:
        probabilities: (n, K) of held-out clips.
        targets: (n, K): 1 where the clip has the label, else 0.
    """
    thresholds = np.full(targets.shape[1], 0.5)
    for label in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-probabilities[:, label], kind="stable")
        values, hits = probabilities[order, label].astype(np.float64), np.cumsum(targets[order, label])
        below = np.append(values[1:], 0.0)
        f1 = np.where(values > below, 2 * hits / (np.arange(1, len(values) + 1) + hits[-1]), -1.0)
        best = int(np.argmax(f1))
        thresholds[label] = (values[best] + below[best]) / 2
    return thresholds

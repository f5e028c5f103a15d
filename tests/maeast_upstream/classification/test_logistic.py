"""Logistic regression against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from maeast_upstream.classification.classifier import probabilities_of
from maeast_upstream.classification.fitting import class_weights
from maeast_upstream.classification.logistic import C_GRID, exclusive_losses, fit_path, independent_losses
from maeast_upstream.classification.standardize import Standardization, principal_axes


def rows_and_targets(multi_label, n=150, dimensions=40, classes=4):
    rng = np.random.default_rng(0)
    number = rng.choice(classes, size=n, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))
    centres = rng.normal(size=(classes, dimensions))
    spread = rng.normal(size=(dimensions, dimensions))
    rows = centres[number] + 2 * rng.normal(size=(n, dimensions)) @ spread / 6
    targets = np.eye(classes)[number]
    if multi_label:
        targets = np.maximum(targets, rng.random(targets.shape) < 0.2)
    return Standardization.of(rows)(rows), targets


@pytest.mark.parametrize("dimensions", [40, 300])
@pytest.mark.parametrize("balance", [False, True])
def test_the_minimum_is_that_of_scikit_learn_in_all_dimensions(dimensions, balance):
    x, targets = rows_and_targets(multi_label=False, dimensions=dimensions)
    weights = class_weights(targets, multi_label=False) if balance else np.ones((len(x), 1))
    axes, variances = principal_axes(x)
    paths = fit_path(x @ axes, targets, weights, variances, multi_label=False)
    for c, linear in zip(C_GRID, paths, strict=True):
        plain = LogisticRegression(C=c, max_iter=10_000, tol=1e-7, class_weight="balanced" if balance else None)
        expected = plain.fit(x, targets.argmax(axis=1)).predict_proba(x)
        found = probabilities_of(linear.logits(x @ axes), multi_label=False)
        np.testing.assert_allclose(found, expected, atol=5e-3)


@pytest.mark.parametrize("balance", [False, True])
def test_several_labels_are_fitted_each_against_its_absence(balance):
    x, targets = rows_and_targets(multi_label=True)
    weights = class_weights(targets, multi_label=True) if balance else np.ones((len(x), 1))
    axes, variances = principal_axes(x)
    paths = fit_path(x @ axes, targets, weights, variances, multi_label=True)
    for c, linear in zip(C_GRID, paths, strict=True):
        found = probabilities_of(linear.logits(x @ axes), multi_label=True)
        for label in range(targets.shape[1]):
            plain = LogisticRegression(C=c, max_iter=10_000, tol=1e-7, class_weight="balanced" if balance else None)
            expected = plain.fit(x, targets[:, label]).predict_proba(x)[:, 1]
            np.testing.assert_allclose(found[:, label], expected, atol=5e-3)


@pytest.mark.parametrize("losses", [exclusive_losses, independent_losses])
def test_slopes_are_those_of_the_losses(losses):
    rng = np.random.default_rng(0)
    logits, targets, step = rng.normal(size=(6, 3)), np.eye(3)[[0, 1, 2, 0, 1, 2]], 1e-6
    _, slopes = losses(logits, targets)
    for row, column in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[row, column] += step
        down[row, column] -= step
        numeric = (losses(up, targets)[0].sum() - losses(down, targets)[0].sum()) / (2 * step)
        assert slopes[row, column] == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("losses", [exclusive_losses, independent_losses])
def test_losses_of_extreme_logits_are_finite(losses):
    logits, targets = np.array([[1e4, -1e4, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    assert all(np.isfinite(values).all() for values in losses(logits, targets))

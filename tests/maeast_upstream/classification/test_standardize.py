"""Standardization, and the rotation that keeps what a penalized classifier sees."""

import numpy as np
import pytest

from maeast_upstream.classification.standardize import MAX_STANDARD_DEVIATIONS, Standardization, principal_axes


@pytest.mark.parametrize("shape", [(80, 400), (400, 80)])
def test_rotating_to_the_principal_axes_keeps_distances_and_makes_dimensions_uncorrelated(shape):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1]))
    x = Standardization.of(rows)(rows)
    axes, variances = principal_axes(x)
    rotated = x @ axes
    assert rotated.shape[1] == min(shape[0] - 1, shape[1])  # centred rows span a dimension less
    np.testing.assert_allclose(axes.T @ axes, np.eye(len(variances)), atol=1e-8)
    np.testing.assert_allclose(rotated @ rotated.T, x @ x.T, atol=1e-8)
    others = Standardization.of(rows)(rng.normal(size=(20, shape[1])))
    np.testing.assert_allclose((others @ axes) @ rotated.T, others @ x.T, atol=1e-8)
    np.testing.assert_allclose(rotated.T @ rotated / len(x), np.diag(variances), atol=1e-8)


def test_a_dimension_without_spread_and_a_far_outlier_do_no_harm():
    train = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    train[:, 3] = 1.0
    far = train[:2].copy()
    far[1, 4] = 1e30
    x = Standardization.of(train)(far)
    assert np.isfinite(x).all()
    assert np.abs(x).max() == MAX_STANDARD_DEVIATIONS
    assert not x[:, 3].any()


def test_rows_that_are_all_equal_have_no_axes():
    axes, variances = principal_axes(np.zeros((5, 3)))
    assert axes.shape == (3, 0)
    assert variances.shape == (0,)

"""The linear probe against its protocol spelt out."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from maeast_upstream.evaluation import linear_probe


def clusters(dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    number = rng.integers(5, size=150)
    centres = rng.normal(size=(5, dimensions))
    features = centres[number] + 2 * rng.normal(size=(150, dimensions))
    splits = np.array(["train"] * 80 + ["valid"] * 30 + ["test"] * 40)
    return features, np.array([f"class {n}" for n in number]), splits


def protocol(features, labels, splits) -> tuple[float, float, float]:
    """The protocol spelt out, in all dimensions."""
    train, valid, test = (splits == name for name in ("train", "valid", "test"))
    x = (features - features[train].mean(0)) / features[train].std(0)
    fits = [
        LogisticRegression(C=c, max_iter=3000, tol=1e-4).fit(x[train], labels[train])
        for c in (0.001, 0.01, 0.1, 1, 10, 100)
    ]
    best = max(fits, key=lambda fit: (fit.score(x[valid], labels[valid]), -fit.C))
    return (100 * best.score(x[valid], labels[valid]), 100 * best.score(x[test], labels[test]), best.C)


@pytest.mark.parametrize("dimensions", [20, 400])
def test_scores_equal_the_protocol_fitted_in_all_dimensions(dimensions):
    data = clusters(dimensions)
    score = linear_probe.probe(*data)
    assert (score.valid, score.test, score.c) == pytest.approx(protocol(*data))


def test_a_dimension_without_spread_and_a_far_outlier_do_no_harm():
    features, labels, splits = clusters(20)
    features[:, 3] = 1.0
    features[-1, 4] = 1e30
    assert linear_probe.probe(features, labels, splits).valid > 40


def test_the_smaller_c_wins_a_tie():
    features = np.array([[-1.0], [1.0]] * 6)
    labels = np.array(["low", "high"] * 6)
    splits = np.array(["train"] * 6 + ["valid"] * 4 + ["test"] * 2)
    assert linear_probe.probe(features, labels, splits) == linear_probe.Score(100, 100, 0.001)


def test_threads_do_not_wait_for_each_other_in_small_products(monkeypatch):
    seen, fit = set(), LogisticRegression.fit

    def watched(model, *data):
        seen.update(pool["num_threads"] for pool in ThreadpoolController().info())
        return fit(model, *data)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    linear_probe.probe(*clusters(20))
    assert seen == {1}

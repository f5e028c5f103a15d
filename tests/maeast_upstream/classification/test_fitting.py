"""The choice of the penalty, cross-validation, and weights of classes."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController, threadpool_limits

from maeast_upstream.classification import fitting
from maeast_upstream.classification.logistic import C_GRID


def clusters(n=120, dimensions=30, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    number = rng.integers(classes, size=n)
    vectors = rng.normal(size=(classes, dimensions))[number] + 2.5 * rng.normal(size=(n, dimensions))
    return vectors.astype(np.float32), np.eye(classes)[number]


def test_the_penalty_with_the_best_valid_accuracy_is_chosen_as_scikit_learn_would():
    vectors, targets = clusters()
    train, valid = slice(0, 70), slice(70, 120)
    fitted = fitting.fit(vectors[train], targets[train], (vectors[valid], targets[valid]), None, multi_label=False)
    x = fitted.standardization(vectors)
    labels = targets.argmax(axis=1)
    plain = [LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit(x[train], labels[train]) for c in C_GRID]
    scores = [model.score(x[valid], labels[valid]) for model in plain]
    assert list(fitted.by_c.values()) == pytest.approx(scores[: len(fitted.by_c)])
    assert fitted.c == C_GRID[int(np.argmax(scores))]
    expected = plain[C_GRID.index(fitted.c)]
    np.testing.assert_allclose(fitted.weight - fitted.weight.mean(0), expected.coef_, atol=5e-3)


def test_cross_validation_predicts_each_clip_by_a_fit_without_its_fold():
    vectors, targets = clusters(n=60)
    folds = fitting.stratified_folds(targets, seed=0)
    fitted = fitting.fit(vectors, targets, None, folds, multi_label=False)
    x, labels = fitted.standardization(vectors), targets.argmax(axis=1)
    for fold in np.unique(folds):
        plain = LogisticRegression(C=fitted.c, max_iter=5000, tol=1e-6).fit(x[folds != fold], labels[folds != fold])
        logits = fitted.held_out[folds == fold]
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(shares, plain.predict_proba(x[folds == fold]), atol=5e-3)


def test_no_weaker_penalty_is_tried_after_two_that_were_worse(monkeypatch):
    scores = iter([0.5, 0.7, 0.6, 0.7, 0.6, 0.65])  # an equal one is not worse
    monkeypatch.setattr(fitting, "score_of", lambda *_: next(scores))
    vectors, targets = clusters(n=30)
    fitted = fitting.fit(vectors, targets, (vectors, targets), None, multi_label=False)
    assert (fitted.c, len(fitted.by_c)) == (C_GRID[1], 6)
    scores = iter([0.5, 0.7, 0.6, 0.6, 0.9, 0.9])
    fitted = fitting.fit(vectors, targets, None, fitting.stratified_folds(targets, 0), multi_label=False)
    assert (fitted.c, len(fitted.by_c)) == (C_GRID[1], 4)


def test_labels_that_say_nothing_are_not_found_in_cross_validation():
    rng = np.random.default_rng(0)
    vectors, targets = rng.normal(size=(90, 200)).astype(np.float32), np.eye(3)[rng.integers(3, size=90)]
    fitted = fitting.fit(vectors, targets, None, fitting.stratified_folds(targets, 0), multi_label=False)
    assert max(fitted.by_c.values()) < 0.6


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_same_vectors_give_the_same_bits_on_any_number_of_threads(multi_label, monkeypatch):
    vectors, targets = clusters()
    folds = fitting.stratified_folds(targets, 0)
    fits = []
    for cores in (1, 2):
        monkeypatch.setattr(fitting, "usable_cores", lambda cores=cores: cores)
        with threadpool_limits(cores):
            fits.append(fitting.fit(vectors, targets, None, folds, multi_label=multi_label))
    first, second = fits
    assert (first.weight == second.weight).all()
    assert (first.held_out == second.held_out).all()


def test_the_limit_of_threads_ends_with_the_fit():
    before = [each["num_threads"] for each in ThreadpoolController().info()]
    vectors, targets = clusters(n=30)
    fitting.fit(vectors, targets, (vectors, targets), None, multi_label=False)
    assert [each["num_threads"] for each in ThreadpoolController().info()][: len(before)] == before


@pytest.mark.parametrize("counts", [(2, 3, 50), (10, 10, 10), (2, 2, 2), (7, 1000, 4500)])
def test_folds_spread_each_label_evenly(counts):
    targets = np.repeat(np.eye(3), counts, axis=0)
    folds = fitting.stratified_folds(targets, seed=1)
    number = 3 if len(targets) >= 5000 else 5
    for label in range(3):
        sizes = np.bincount(folds[targets[:, label] > 0], minlength=number)
        assert sizes.max() - sizes.min() <= 1
        assert (sizes > 0).sum() >= 2
    assert (fitting.stratified_folds(targets, seed=1) == folds).all()
    assert (fitting.stratified_folds(targets, seed=2) != folds).any()


def test_balanced_weights_give_each_label_the_same_sum_and_a_mean_of_one():
    targets = np.repeat(np.eye(3), (2, 8, 20), axis=0)
    weights = fitting.class_weights(targets, multi_label=False)
    assert weights.shape == (30, 1)
    assert (weights * targets).sum(axis=0) == pytest.approx([10, 10, 10])
    several = fitting.class_weights(targets, multi_label=True)
    assert (several * targets).sum(axis=0) == pytest.approx([15, 15, 15])
    assert several.sum(axis=0) == pytest.approx([30, 30, 30])


def test_balance_finds_more_of_a_rare_label():
    rng = np.random.default_rng(0)
    rare = np.arange(300) < 15
    vectors = (rng.normal(size=(300, 5)) + 1.0 * rare[:, None]).astype(np.float32)
    targets = np.stack([rare, ~rare], axis=1).astype(float)
    found = {}
    for balance in (False, True):
        valid = (vectors, targets)
        fitted = fitting.fit(vectors, targets, valid, None, multi_label=False, balance=balance)
        found[balance] = (fitted.held_out.argmax(axis=1)[rare] == 0).mean()
    assert found[True] > found[False]


def test_equal_vectors_give_the_shares_of_the_labels():
    vectors, targets = np.ones((40, 4), np.float32), np.repeat(np.eye(2), (10, 30), axis=0)
    fitted = fitting.fit(vectors, targets, (vectors, targets), None, multi_label=False)
    shares = np.exp(fitted.bias) / np.exp(fitted.bias).sum()
    assert shares == pytest.approx([0.25, 0.75], abs=1e-3)
    assert not fitted.weight.any()

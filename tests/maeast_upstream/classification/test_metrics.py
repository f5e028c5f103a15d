"""Scores against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as plain

from maeast_upstream.classification.metrics import score


def draw(multi_label, classes=4, n=80):
    rng = np.random.default_rng(0)
    targets = np.eye(classes)[rng.integers(classes, size=n)]
    if multi_label:
        targets = np.maximum(targets, rng.random(targets.shape) < 0.3)
    probabilities = 0.4 * targets + 0.6 * rng.random(targets.shape)
    return targets, probabilities / (1 if multi_label else probabilities.sum(axis=1, keepdims=True))


def test_scores_of_one_label_per_clip_are_those_of_scikit_learn():
    targets, probabilities = draw(multi_label=False)
    scores = score(tuple("abcd"), probabilities, np.full(4, 0.5), targets, multi_label=False)
    true, found = targets.argmax(axis=1), probabilities.argmax(axis=1)
    assert scores.accuracy == pytest.approx(plain.accuracy_score(true, found))
    assert (scores.confusion == plain.confusion_matrix(true, found)).all()
    expected = plain.precision_recall_fscore_support(true, found)
    for number, values in enumerate(scores.labels.values()):
        assert values["precision"] == pytest.approx(expected[0][number])
        assert values["recall"] == pytest.approx(expected[1][number])
        assert values["clips"] == expected[3][number]
    assert scores.mean_average_precision == pytest.approx(plain.average_precision_score(targets, probabilities))


def test_scores_of_several_labels_count_each_label_from_its_threshold():
    targets, probabilities = draw(multi_label=True)
    thresholds = np.array([0.2, 0.4, 0.6, 0.8])
    scores = score(tuple("abcd"), probabilities, thresholds, targets, multi_label=True)
    found = probabilities >= thresholds
    assert scores.accuracy == pytest.approx(plain.accuracy_score(targets, found))
    for number, matrix in enumerate(plain.multilabel_confusion_matrix(targets, found)):
        (absent, wrong), (missed, hits) = matrix
        assert scores.confusion[number].tolist() == [hits, missed, wrong, absent]


def test_a_label_that_is_not_there_or_not_found_has_no_score_rather_than_zero():
    targets, probabilities = np.eye(3)[[0, 0, 1]], np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.7, 0.3, 0.0]])
    scores = score(tuple("abc"), probabilities, np.full(3, 0.5), targets, multi_label=False)
    assert scores.labels["b"] == {"clips": 1, "precision": None, "recall": 0.0, "average_precision": 1.0}
    assert scores.labels["c"] == {"clips": 0, "precision": None, "recall": None, "average_precision": None}
    assert scores.mean_average_precision == 1.0

"""Temperatures and thresholds."""

import numpy as np
import pytest

from maeast_upstream.classification.calibration import best_thresholds, fit_temperature
from maeast_upstream.classification.classifier import probabilities_of


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_overconfident_logits_is_recovered(multi_label, temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5_000, 3)) * 2
    probabilities = probabilities_of(logits, multi_label)
    if multi_label:
        targets = (rng.random(logits.shape) < probabilities).astype(float)
    else:
        targets = np.eye(3)[[rng.choice(3, p=row) for row in probabilities]]
    assert fit_temperature(temperature * logits, targets, multi_label) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_few_clips_that_are_all_right_do_not_ask_for_certainty(multi_label):
    targets = np.eye(2)[[0, 1] * 5]
    logits = 4 * targets - 2
    found = probabilities_of(logits / fit_temperature(logits, targets, multi_label), multi_label)
    assert 0.9 < found[targets > 0].min() < 0.99


def f1(targets, found):
    return 2 * (targets * found).sum() / (targets.sum() + found.sum())


def test_a_threshold_has_the_best_f1_of_all():
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < (0.1, 0.5, 0.9)).astype(float)
    probabilities = np.clip(0.3 * targets + 0.7 * rng.random(targets.shape), 0, 1).round(2)
    thresholds = best_thresholds(probabilities, targets)
    for label in range(3):
        scores = [f1(targets[:, label], probabilities[:, label] >= value) for value in np.arange(0.005, 0.9, 0.01)]
        found = f1(targets[:, label], probabilities[:, label] >= thresholds[label])
        assert found == pytest.approx(max(scores))


def test_a_label_that_does_not_occur_has_the_threshold_one_half():
    thresholds = best_thresholds(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert thresholds[1] == 0.5
    assert 0 < thresholds[0] <= 0.8

"""Heads of folds."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from maeast_upstream.evaluation.folds import draw_folds, fit_fold_heads


def test_the_clips_of_a_class_are_spread_over_the_folds_and_one_that_is_alone_is_in_none():
    classes = torch.tensor([0] * 9 + [1] * 2 + [2])
    folds = draw_folds(classes, 4, torch.Generator().manual_seed(0))
    assert sorted(folds[:9].bincount(minlength=4).tolist()) == [2, 2, 2, 3]
    assert folds[9] != folds[10]
    assert folds[11] == 4
    assert int(folds[:11].max()) < 4


def test_a_head_is_the_probe_s_of_the_other_clips_and_of_those_that_are_alone():
    rng = np.random.default_rng(0)
    classes = torch.tensor([0, 1, 2] * 10 + [3])
    x = rng.normal(size=(31, 50)) + np.eye(4, 50)[classes]
    folds = draw_folds(classes, 3, torch.Generator().manual_seed(0))
    heads = fit_fold_heads(x, classes, folds, 0.1, torch.device("cpu"))
    logits = heads(torch.from_numpy(x).float(), list(range(31))).numpy()
    for fold in range(4):
        inside, fitted = folds.numpy() == fold, (folds.numpy() != fold) | (classes.numpy() == 3)
        model = LogisticRegression(C=0.1, max_iter=3000, tol=1e-8).fit(x[fitted], classes[fitted])
        expected = model.predict_log_proba(x[inside])
        found = torch.log_softmax(torch.from_numpy(logits[inside]), dim=1).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3)

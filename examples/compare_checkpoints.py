"""Compare two checkpoints on labelled clips: accuracy of a linear classifier, and how similar their vectors are.

Run it from the repository: python examples/compare_checkpoints.py LABELS.csv FIRST SECOND
A checkpoint is whatever load_model takes; "bundled" is the one in the package, "random" its shape with random weights.
It needs the extra `probe` (scikit-learn): pip install '.[probe]'
"""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maeast_upstream import Encoder, load_model
from maeast_upstream.extract import embed_files


def load(name: str) -> Encoder:
    """The encoder of a checkpoint; "random" is the bundled one's network without training and without a whitening."""
    if name != "random":
        return load_model(None if name == "bundled" else name)
    torch.manual_seed(0)
    config = load_model().config
    return Encoder(replace(config, readout=config.readout.full)).eval()


def accuracies(vectors: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> tuple[float, float]:
    """Valid and test accuracy of logistic regression; its regularization C is chosen on valid."""
    train, valid, test = (splits == split for split in ("train", "valid", "test"))
    best = (-1.0, -1.0)
    for strength in (0.001, 0.01, 0.1, 1.0, 10.0):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        classifier.fit(vectors[train], labels[train])
        valid_accuracy = classifier.score(vectors[valid], labels[valid])
        if valid_accuracy > best[0]:
            best = valid_accuracy, classifier.score(vectors[test], labels[test])
    return best


def kernel_alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA (Kornblith et al. 2019): 1 if both sets of vectors have the same geometry, 0 if they share nothing."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    first, second = first @ first.T, second @ second.T
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


table, names = Path(sys.argv[1]), sys.argv[2:4]
with table.open(newline="") as file:
    clips = list(csv.DictReader(file))
labels = np.array([clip["label"] for clip in clips])
splits = np.array([clip["split"] for clip in clips])
paths = [table.parent / clip["path"] for clip in clips]

vectors = []
for name in names:
    vectors.append(np.stack([row["vector"] for row in embed_files(paths, load(name))]))
    valid, test = accuracies(vectors[-1], labels, splits)
    print(f"{name}: valid {valid:.1%}, test {test:.1%} ({vectors[-1].shape[1]} dimensions)")
print(f"similarity of the two (linear CKA): {kernel_alignment(*vectors):.2f}")

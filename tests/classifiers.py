"""Classifiers for the tests, with random weights."""

from pathlib import Path

import numpy as np

from maeast_upstream import load_model
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.fingerprint import fingerprint

CLIPS = sorted((Path(__file__).parent / "data" / "audio").glob("tone*.opus"))[:2]


def random_classifier(labels=("a", "b", "c"), **options) -> Classifier:
    """A classifier of the bundled checkpoint's vectors; ``options`` are other values of its fields."""
    model = load_model()
    random, width = np.random.default_rng(0), 3072
    vectors = np.concatenate([model.embed(str(path)).numpy() for path in CLIPS])
    settings = {
        "labels": labels,
        "checkpoint": "bundled",
        "fingerprint": fingerprint(model, model.config.readout),
        "readout": model.config.readout,
        "mean": vectors.mean(0),
        "scale": np.ones(width),
        "weight": random.normal(size=(len(labels), width)),
        "bias": np.zeros(len(labels)),
        "thresholds": np.full(len(labels), 0.5),
    }
    return Classifier(**(settings | options))

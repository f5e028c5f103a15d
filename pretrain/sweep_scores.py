"""How well labels are read from a run's frozen encoder: valid accuracies only, so that test stays unread."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.encoder import Encoder
from maeast_upstream.files import replacing
from maeast_upstream.probe import LabelledSet, embeddings, fit_probe
from maeast_upstream.readout import Readout

READOUT = Readout(layer="last", mel="mean", pool="mean")
"""The last layer's tokens averaged: it shows the encoder, where a rich readout gets much from random weights, too."""

Scores = dict[str, float]
"""By labelled set, in per cent."""


def kept_scores(path: Path, encoder: Encoder, sets: Sequence[LabelledSet]) -> Scores:
    """The scores in the file ``path``; what it lacks is measured and added."""
    scores = read_scores(path)
    for one in sets:
        if one.name not in scores:
            scores[one.name] = valid_accuracy(encoder, one)
            with replacing(path) as part:
                part.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return {one.name: scores[one.name] for one in sets}


def read_scores(path: Path) -> Scores:
    """What `kept_scores` wrote; empty where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def valid_accuracy(encoder: Encoder, one: LabelledSet) -> float:
    """The best valid accuracy over the probe's penalties, in per cent; test clips are not even decoded."""
    kept = one.splits != "test"
    paths = [path for path, keep in zip(one.paths, kept, strict=True) if keep]
    features = embeddings(paths, encoder, [READOUT])[READOUT]
    return fit_probe(features, one.labels[kept], one.splits[kept]).valid


def mean_score(scores: Mapping[str, float], names: Sequence[str] | None = None) -> float:
    """Over all sets, or over those named."""
    return float(np.mean([scores[name] for name in names or scores]))

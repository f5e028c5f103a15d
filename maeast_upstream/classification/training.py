"""From labelled vectors to a classifier: fits, calibrates and scores it."""

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.checkpoint.places import BUNDLED_NAME
from maeast_upstream.classification.calibration import best_thresholds, fit_temperature
from maeast_upstream.classification.classifier import Classifier, probabilities_of
from maeast_upstream.classification.examples import Examples, embed_clips, look_up_clips
from maeast_upstream.classification.fitting import Fitted, fit, refuse_no_sklearn, stratified_folds
from maeast_upstream.classification.labelled_clips import (
    LabelledClip,
    describe_counts,
    read_clips,
    refuse_unfit,
    splits_of,
    targets_of,
)
from maeast_upstream.classification.metrics import Scores, score
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.data.labels import NO_NAMES
from maeast_upstream.data.tables import ColumnNames
from maeast_upstream.data.windows import Windows
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.readout import Readout
from maeast_upstream.version import __version__

logger = logging.getLogger(__name__)

PACKAGES = ("numpy", "scikit-learn", "scipy", "torch")
CROSS_VALIDATION = "cross-validation"


@dataclass(frozen=True)
class Trained:
    """A classifier, and what its fit showed."""

    classifier: Classifier
    description: str
    """The clips and vectors that it was fitted on, in words."""
    by_c: dict[float, float]
    """Score of the held-out rows for each strength of the penalty."""
    chosen_on: str
    """What chose the strength, the temperature and the thresholds: valid, or cross-validation."""
    scored_on: str
    """The rows of ``scores``: test, or what chose the strength."""
    scores: Scores
    left_out: list[tuple[LabelledClip, str]]
    """Clips that could not be used, with the reason."""


def train_on_labels(
    labels: str | Path,
    *,
    encoder: Encoder | None = None,
    checkpoint: str | Path | None = None,
    table: str | Path | None = None,
    layer: str | None = None,
    readout: Readout | None = None,
    windows: Windows | None = None,
    multi_label: bool = False,
    balance: bool = False,
    seed: int = 0,
    columns: ColumnNames = NO_NAMES,
    workers: int = 1,
) -> Trained:
    """Fit a classifier on a table of labels; the arguments and errors are those of `Classifier.fit`."""
    refuse_no_sklearn()
    path = Path(labels)
    if table is not None and (encoder, checkpoint, readout, windows) != (None,) * 4:
        raise ValueError("a table of embeddings has its own checkpoint, readout and windows: give one or the other")
    if table is None and layer is not None:
        raise ValueError(f"layer {layer!r} is one of a table of embeddings; without it give readout=Readout(layer=...)")
    clips = read_clips(path, multi_label, columns)
    if table is not None:
        examples = look_up_clips(clips, EmbeddingTable(table, layer, full=True), path.parent)
    else:
        own = () if readout is None else (readout,)
        if encoder is not None and checkpoint is None and fingerprint(encoder, *own) != fingerprint(load_model(), *own):
            raise ValueError("give checkpoint, the name or path of this encoder, by which the classifier will load it")
        name = str(checkpoint or BUNDLED_NAME)
        encoder = encoder or load_model(checkpoint)
        readout = readout or encoder.config.readout
        examples = embed_clips(clips, encoder, name, readout, windows, workers)
    return train(examples, str(path), multi_label=multi_label, balance=balance, seed=seed)


def train(
    examples: Examples, table: str, *, multi_label: bool = False, balance: bool = False, seed: int = 0
) -> Trained:
    """Fit a classifier on the train rows, and score test once, if there is one.

    Valid, or without it cross-validation on train, chooses the penalty, the temperature and the thresholds.

    Args:
        examples: Labelled vectors.
        table: The table of labels, for messages.
        multi_label: Whether each clip has any number of labels.
        balance: Whether rare labels get as much weight as frequent ones.
        seed: Of the folds of cross-validation.

    Raises:
        ValueError: As in `refuse_unfit`; scikit-learn is not installed.
    """
    clips = list(dict.fromkeys(examples.clips))
    refuse_unfit(clips, table)
    labels = tuple(sorted({label for clip in clips for label in clip.labels}))
    if gone := sorted({label for clip, _ in examples.left_out for label in clip.labels}.difference(labels)):
        logger.warning("%s: no clip of %s is left: not a label of this classifier", table, ", ".join(map(repr, gone)))
    splits, targets = splits_of(examples.clips), targets_of(examples.clips, labels)
    is_train, is_valid, is_test = (splits == split for split in ("train", "valid", "test"))
    valid, folds = None, None
    if is_valid.any():
        valid = (examples.vectors[is_valid], targets[is_valid])
    else:
        train_clips = [clip for clip in clips if clip.split in ("", "train")]
        by_clip = dict(zip(train_clips, stratified_folds(targets_of(train_clips, labels), seed), strict=True))
        folds = np.array([by_clip[clip] for clip in examples.clips if clip in by_clip])
    fitted = fit(examples.vectors[is_train], targets[is_train], valid, folds, multi_label=multi_label, balance=balance)
    answers = targets[is_valid] if is_valid.any() else targets[is_train]
    temperature = fit_temperature(fitted.held_out, answers, multi_label)
    probabilities = probabilities_of(fitted.held_out / temperature, multi_label)
    thresholds = best_thresholds(probabilities, answers)
    classifier = _classifier(examples, labels, fitted, multi_label, temperature, thresholds)
    chosen_on = "valid" if is_valid.any() else CROSS_VALIDATION
    scored_on = "test" if is_test.any() else chosen_on
    if is_test.any():
        probabilities, answers = classifier.probabilities(examples.vectors[is_test]), targets[is_test]
    scores = score(labels, probabilities, classifier.thresholds, answers, multi_label)
    chosen = {"C": fitted.c, "chosen_on": chosen_on, "scored_on": scored_on, "balance": balance, "seed": seed}
    about = {"counts": _counts(examples), **chosen, "scores": scores.to_dict(), "versions": _versions()}
    description = describe_counts(clips)
    if len(examples.clips) > len(clips):
        description = f"{description}; {len(examples.clips)} windows"
    classifier = dataclasses.replace(classifier, about=about)
    return Trained(classifier, description, fitted.by_c, chosen_on, scored_on, scores, examples.left_out)


def _classifier(
    examples: Examples,
    labels: tuple[str, ...],
    fitted: Fitted,
    multi_label: bool,
    temperature: float,
    thresholds: np.ndarray,
) -> Classifier:
    return Classifier(
        labels=labels,
        multi_label=multi_label,
        checkpoint=examples.source.checkpoint,
        fingerprint=examples.source.fingerprint,
        readout=examples.readout,
        windows=examples.windows,
        mean=fitted.standardization.mean,
        scale=fitted.standardization.scale,
        weight=fitted.weight,
        bias=fitted.bias,
        temperature=temperature,
        thresholds=thresholds,
    )


def _counts(examples: Examples) -> dict[str, Any]:
    rows = Counter(map(str, splits_of(examples.clips)))
    clips = Counter(clip.split or "train" for clip in dict.fromkeys(examples.clips))
    return {"clips": dict(clips), "vectors": dict(rows), "left_out": len(examples.left_out)}


def _versions() -> dict[str, str]:
    return {"maeast": __version__, **{package: version(package) for package in PACKAGES}}

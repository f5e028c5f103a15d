"""Compares kinds of features on labelled sets: encoders, log-mel statistics, and vectors from files."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.classification.folder import CheckpointSource
from maeast_upstream.data.labels import SPLITS
from maeast_upstream.encoder import Encoder, Precision, load_model
from maeast_upstream.evaluation.features import embeddings, logmel_features
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.evaluation.linear_probe import FittedProbe, fit_probe, valid_accuracies
from maeast_upstream.evaluation.saving import calibrated
from maeast_upstream.evaluation.vectors import VectorTable
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Readout, describe

LOG_MEL, RANDOM_WEIGHTS = "log-mel", "random weights"
"""How tables call the two baselines."""


@dataclass(frozen=True)
class Outcome:
    """The linear probe of one system on one labelled set: of one run, or the mean of several runs."""

    digest: str
    """Of the weights or of the feature file; empty for log-mel and for a mean."""
    labelled_set: LabelledSet
    readout: str
    c: float
    """The chosen inverse strength of the penalty."""
    valid: float
    """Accuracy in per cent."""
    correct: np.ndarray
    """(test clips,) bool, True where the probe is right; for a mean of runs the share of them that is right."""

    @property
    def test(self) -> float:
        """Accuracy in per cent."""
        return 100 * float(self.correct.mean())


@dataclass(frozen=True)
class SystemScores:
    """The scores of a system, which is one column of a comparison."""

    name: str
    outcomes: list[Outcome]
    """Run by run, and in each the sets in their order."""
    valid: dict[str, list[float]]
    """For each readout that was tried, the valid accuracies in the order of ``outcomes``."""
    best: Readout | None = None
    """The chosen readout of encoders."""
    fitted: FittedProbe | None = None
    """The probe of a single run on a single set."""

    @property
    def means(self) -> list[Outcome]:
        """The mean over the runs on each set, in the order of the sets."""
        runs: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            runs.setdefault(outcome.labelled_set.name, []).append(outcome)
        return [mean_outcome(outcomes) for outcomes in runs.values()]


def load_runs(
    name: str, sources: Sequence[str | None], device: str | None = None, precision: Precision = "fp32"
) -> list[Encoder]:
    """Load the checkpoints of a recipe's seeds; the arguments are those of `load_model`.

    Raises:
        ValueError: as in `load_model`; the checkpoints differ in shape or readout, or two have the same weights.
    """
    runs = [load_model(source, device, precision) for source in sources]
    for source, run in zip(sources, runs, strict=True):
        if (run.config.model, run.config.readout) != (runs[0].config.model, runs[0].config.readout):
            raise ValueError(
                f"runs of {name!r}: {source or 'the bundled checkpoint'} has another shape or readout than "
                f"{sources[0] or 'the bundled checkpoint'}; give it a name of its own"
            )
    if len({fingerprint(run) for run in runs}) < len(runs):
        raise ValueError(f"two runs of {name!r} have the same weights; give each seed once, or another name")
    return runs


def mean_outcome(runs: Sequence[Outcome]) -> Outcome:
    """Return the mean of several runs on the same set."""
    if len(runs) == 1:
        return runs[0]
    correct = np.mean([run.correct for run in runs], axis=0)
    return replace(runs[0], digest="", correct=correct, valid=float(np.mean([run.valid for run in runs])))


def score_features(
    name: str, digest: str, readout: str, features: Callable[[LabelledSet], np.ndarray], sets: Sequence[LabelledSet]
) -> SystemScores:
    """Probe features that need no readout; ``features`` returns (clips, dimensions) in a set's order."""
    outcomes = []
    for each in progress_bar(sets, desc=name, leave=False):
        fitted = fit_probe(features(each), each.labels, each.splits)
        outcomes.append(Outcome(digest, each, readout, fitted.c, fitted.valid, score_test(fitted, each)))
    return SystemScores(name, outcomes, {readout: [outcome.valid for outcome in outcomes]})


def score_logmel(sets: Sequence[LabelledSet]) -> SystemScores:
    """Probe the mean and standard deviation of the log-mel spectrogram."""
    readout = "mean and standard deviation"
    return score_features(LOG_MEL, "", readout, lambda each: logmel_features(each.paths), sets)


def score_vectors(name: str, table: VectorTable, sets: Sequence[LabelledSet]) -> SystemScores:
    """Probe the vectors of another extractor."""
    return score_features(name, table.digest, "vectors", table.of, sets)


def score_encoders(
    name: str, encoders: Sequence[Encoder], readouts: Sequence[Readout], sets: Sequence[LabelledSet]
) -> SystemScores:
    """Probe the runs of one recipe with the readout that has the best mean valid accuracy over runs and sets."""
    fits: dict[Readout, list[FittedProbe]] = {readout: [] for readout in readouts}
    for encoder in encoders:
        for each in progress_bar(sets, desc=name, leave=False):
            features = embeddings(each.paths, encoder, readouts)
            for readout in progress_bar(readouts, desc=f"{each.name}: fit", leave=False):
                fits[readout].append(fit_probe(features.pop(readout), each.labels, each.splits))
    valid = {readout: [fitted.valid for fitted in row] for readout, row in fits.items()}
    best = max(readouts, key=lambda readout: np.mean(valid[readout]))
    digests = [fingerprint(encoder, best) for encoder in encoders]
    outcomes = [
        Outcome(digest, each, describe(best), fitted.c, fitted.valid, score_test(fitted, each))
        for (digest, each), fitted in zip(itertools.product(digests, sets), fits[best], strict=True)
    ]
    by_readout = {describe(readout): row for readout, row in valid.items()}
    return SystemScores(name, outcomes, by_readout, best, fits[best][0] if len(fits[best]) == 1 else None)


def saved_classifier(system: SystemScores, checkpoint: str) -> Classifier:
    """Return the probe of a single run on a single set as a classifier, for ``maeast predict``.

    Args:
        system: The scores of one encoder on one set.
        checkpoint: Its name, path or hub id.
    """
    assert system.fitted is not None
    assert system.best is not None
    (outcome,) = system.outcomes
    labels = sorted({str(label) for label in outcome.labelled_set.labels})
    valid = outcome.labelled_set.labels[outcome.labelled_set.splits == "valid"].tolist()
    _, *sizes = outcome.labelled_set.shape
    scores = {"C": outcome.c, "valid_accuracy": outcome.valid / 100, "test_accuracy": outcome.test / 100}
    return calibrated(
        system.fitted.head,
        labels,
        valid=(system.fitted.valid_logits, np.array([labels.index(label) for label in valid])),
        source=CheckpointSource(checkpoint, outcome.digest),
        readout=system.best,
        about={"clips": dict(zip(SPLITS, sizes, strict=True)), "probe": scores},
    )


def score_test(fitted: FittedProbe, labelled_set: LabelledSet) -> np.ndarray:
    """Score test, once; (test clips,) bool, True where the probe is right."""
    return fitted.correct(labelled_set.labels[labelled_set.splits == "test"])


def layer_accuracies(encoder: Encoder, sets: Sequence[LabelledSet]) -> Mapping[str, list[float]]:
    """Return each set's valid accuracy with each layer, read out as the checkpoint says; test is not scored."""
    layers = range(1, encoder.num_layers + 1)
    readouts = [replace(encoder.config.readout.full, layer=layer) for layer in layers]
    accuracies = {}
    for each in progress_bar(sets, desc="layers", leave=False):
        accuracies[each.name] = list(valid_accuracies(each, encoder, readouts).values())
    return accuracies

"""What a report compares: features of clips, how well labels are read from them, and which clips were right."""

import csv
import hashlib
import itertools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation.features import describe, embeddings, logmel_features
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.evaluation.linear_probe import FittedProbe, fit_probe, valid_accuracies
from maeast_upstream.evaluation.test_log import Reading
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Readout


@dataclass(frozen=True)
class Outcome:
    """One system on one labelled set: of several runs of a system one of them, or in tables their mean."""

    system: str
    digest: str
    """Of its weights or of its feature file; empty where there is none."""
    one: LabelledSet
    readout: str
    c: float
    valid: float
    """In per cent."""
    right: np.ndarray
    """(test clips,) bool; of a mean the share of the runs."""

    @property
    def test(self) -> float:
        """In per cent."""
        return 100 * float(self.right.mean())

    @property
    def reading(self) -> Reading:
        """For the log."""
        own = {"system": self.system, "digest": self.digest, "readout": self.readout}
        return Reading(**own, set=self.one.name, clips=len(self.right))


def features_outcomes(
    system: str, digest: str, sets: Sequence[LabelledSet], features: Callable[[LabelledSet], np.ndarray]
) -> list[Outcome]:
    """A system of fixed features; ``features`` gives (clips, dimensions) in a set's order."""
    outcomes = []
    for one in progress_bar(sets, desc=system, leave=False):
        fitted = fit_probe(features(one), one.labels, one.splits)
        outcomes.append(Outcome(system, digest, one, "", fitted.c, fitted.valid, read_test(fitted, one)))
    return outcomes


def logmel_outcomes(sets: Sequence[LabelledSet]) -> list[Outcome]:
    """Mean and deviation of the log-mel."""
    return features_outcomes("log-mel", "", sets, lambda one: logmel_features(one.paths))


def table_outcomes(system: str, table: "VectorTable", sets: Sequence[LabelledSet]) -> list[Outcome]:
    """Another extractor's vectors."""
    return features_outcomes(
        system, table.digest, sets, lambda one: np.stack([table.vectors[clip.resolve()] for clip in one.paths])
    )


@dataclass(frozen=True)
class VectorTable:
    """Another extractor's vectors of clips."""

    digest: str
    """Of the file."""
    vectors: dict[Path, np.ndarray]


def read_table(path: Path, sets: Sequence[LabelledSet]) -> VectorTable:
    """Vectors by clip: an .npz with ``path`` (n,) and ``vector`` (n, dimensions), or a CSV with ``path`` and numbers.

    Raises:
        ValueError: no such file, or not of that form; a clip twice; a clip of the sets is not in the file.
    """
    try:
        names, vectors = read_npz(path) if path.suffix == ".npz" else read_numbers(path)
        clips = [Path(name).resolve() for name in names]
        if vectors.ndim != 2 or len(vectors) != len(clips) or not vectors.size or not np.isfinite(vectors).all():
            raise ValueError(f"not a vector of finite numbers for each path, but of shape {vectors.shape}")
        if len(set(clips)) < len(clips):
            raise ValueError("a path is there twice")
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, csv.Error) as error:
        raise ValueError(
            f"{path}: expected an .npz with path and vector, or a CSV with path and numbers ({error})"
        ) from error
    table = dict(zip(clips, vectors, strict=True))
    for one in sets:
        missing = [clip for clip in one.paths if clip.resolve() not in table]
        if missing:
            raise ValueError(f"{path}: no vector of {missing[0]}, a clip of {one.name} ({len(missing)} missing)")
    with path.open("rb") as file:
        return VectorTable(hashlib.file_digest(file, "sha256").hexdigest(), table)


def read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and vectors."""
    with np.load(path, allow_pickle=False) as arrays:
        return [str(name) for name in arrays["path"]], np.asarray(arrays["vector"], np.float64)


def read_numbers(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and vectors of a CSV; empty lines are passed over."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    place = header.index("path")
    names = [row.pop(place) for row in rows]
    return names, np.array([[float(value) for value in row] for row in rows])


def encoder_outcomes(
    system: str, encoders: Sequence[Encoder], readouts: Sequence[Readout], sets: Sequence[LabelledSet]
) -> tuple[list[Outcome], dict[Readout, list[float]]]:
    """Runs of one recipe: the readout with their best mean valid accuracy; its test accuracies, and all valid ones.

    Returns:
        Each run's outcomes on the sets, and by readout the valid accuracies of all of them.
    """
    digests = [fingerprint(encoder) for encoder in encoders]
    fits: dict[Readout, list[FittedProbe]] = {readout: [] for readout in readouts}
    for encoder in encoders:
        for one in progress_bar(sets, desc=system, leave=False):
            features = embeddings(one.paths, encoder, readouts)
            for readout in readouts:
                fits[readout].append(fit_probe(features.pop(readout), one.labels, one.splits))
    valid = {readout: [fitted.valid for fitted in row] for readout, row in fits.items()}
    best = max(readouts, key=lambda readout: np.mean(valid[readout]))
    outcomes = [
        Outcome(system, digest, one, describe(best), fitted.c, fitted.valid, read_test(fitted, one))
        for (digest, one), fitted in zip(itertools.product(digests, sets), fits[best], strict=True)
    ]
    return outcomes, valid


def layer_scores(encoder: Encoder, sets: Sequence[LabelledSet]) -> Mapping[str, list[float]]:
    """By set the valid accuracy of each layer, with the checkpoint's own mel, pool and hop; test is not read."""
    own = encoder.config.readout
    readouts = [
        Readout(layer=layer, mel=own.mel, pool=own.pool, hop_ms=own.hop_ms)
        for layer in range(1, encoder.num_layers + 1)
    ]
    scores = {}
    for one in progress_bar(sets, desc="layers", leave=False):
        scores[one.name] = list(valid_accuracies(one, encoder, readouts).values())
    return scores


def read_test(fitted: FittedProbe, one: LabelledSet) -> np.ndarray:
    """(test clips,) bool: which the probe names rightly."""
    test = one.splits == "test"
    right: np.ndarray = fitted.model.predict(fitted.x[test]) == one.labels[test]
    return right

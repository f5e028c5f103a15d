"""From a table of events to a detector: reads, embeds, fits and scores."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.data.labels import NO_NAMES
from maeast_upstream.data.tables import ColumnNames
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.events.collecting import LabelledSteps, collected, refuse_unfit
from maeast_upstream.events.detector import EventDetector
from maeast_upstream.events.fitting import fit_steps
from maeast_upstream.events.recordings import Recording, read_recordings
from maeast_upstream.events.scoring import EventScores, refuse_no_sed_eval, score_events
from maeast_upstream.events.steps import step_hop_ms, step_readout
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.readout import Readout
from maeast_upstream.version import __version__

PACKAGES = ("numpy", "scikit-learn", "scipy", "sed_eval", "torch")


@dataclass(frozen=True)
class TrainedEvents:
    """A detector, and what its fit showed."""

    detector: EventDetector
    scores: dict[str, EventScores]
    """By valid or cross-validation, and test if there is one."""
    counts: dict[str, dict[str, int]]
    """By split: recordings, events and seconds."""
    left_out: list[tuple[Recording, str]]
    """Recordings that could not be read, with the reason."""
    notes: list[tuple[str, str]]
    """Name of a recording, and what was noticed about its audio."""
    cut: int
    """Events that end behind their recording's end, where they were cut."""


def train_on_events(
    table: str | Path,
    encoder: Encoder | None = None,
    *,
    checkpoint: str | Path | None = None,
    readout: Readout | None = None,
    columns: ColumnNames = NO_NAMES,
    workers: int = 1,
    seed: int = 0,
) -> TrainedEvents:
    """Fit a detector on a table of events; the arguments and errors are those of `EventDetector.fit`."""
    refuse_no_sed_eval()
    path = Path(table)
    recordings = read_recordings(path, columns)
    encoder = encoder or load_model(checkpoint)
    readout = step_readout(encoder) if readout is None else step_readout(encoder, readout.layer, readout.mel)
    with collected(recordings, encoder, readout, workers) as found:
        refuse_unfit(found, path)
        labels = tuple(sorted({event.label for each in found.recordings for event in each.events}))
        hop_ms = step_hop_ms(encoder, readout)
        fitted = fit_steps(found.recordings, labels, hop_ms, seed)
        detector = EventDetector(
            labels=labels,
            checkpoint=str(checkpoint or "bundled"),
            fingerprint=fingerprint(encoder),
            readout=readout,
            hop_ms=hop_ms,
            offsets=fitted.offsets,
            mean=fitted.projection.mean,
            scale=fitted.projection.scale,
            weight=fitted.projection.unrotated(fitted.weight),
            bias=fitted.bias,
            smoothing=fitted.smoothing,
        )
        scores = {fitted.chosen_on: score(detector, fitted.held_out)}
        if test := [each for each in found.recordings if each.split == "test"]:
            scores["test"] = score(detector, ((each, detector.probabilities(each.steps)) for each in test))
        counts = count(found.recordings)
        about = {"counts": counts, "left_out": len(found.left_out), "C": fitted.c, "seed": seed}
        about |= {"chosen_on": fitted.chosen_on, "scores": {name: as_plain(each) for name, each in scores.items()}}
        about |= {"versions": {"maeast": __version__, **{package: version(package) for package in PACKAGES}}}
        detector = dataclasses.replace(detector, about=about)
        return TrainedEvents(detector, scores, counts, found.left_out, found.notes, found.cut)


def score(detector: EventDetector, judged: Iterable[tuple[LabelledSteps, np.ndarray]]) -> EventScores:
    """Score the events that a detector finds in (T, K) probabilities of recordings."""
    reference, found = {}, {}
    for each, probabilities in judged:
        reference[each.name] = each.events
        found[each.name] = detector.events(probabilities, each.times_ms, each.duration_ms)
    return score_events(reference, found, detector.labels)


def count(recordings: Sequence[LabelledSteps]) -> dict[str, dict[str, int]]:
    """Count the recordings, events and whole seconds of each split."""
    result = {}
    for split in dict.fromkeys(each.split for each in recordings):
        inside = [each for each in recordings if each.split == split]
        seconds = sum(each.duration_ms for each in inside) / 1000
        result[split] = {
            "recordings": len(inside), "events": sum(len(each.events) for each in inside), "seconds": round(seconds)
        }  # fmt: skip
    return result


def as_plain(scores: EventScores) -> dict[str, Any]:
    """Return scores as plain data."""
    onsets = scores.onsets
    return {
        "onset_f_measure": onsets.f_measure,
        "precision": onsets.precision,
        "recall": onsets.recall,
        "segment_error_rate": scores.error_rate if np.isfinite(scores.error_rate) else None,
        "labels": {label: dataclasses.asdict(counts) for label, counts in scores.by_label.items()},
    }

"""Scores a run's frozen encoder with linear probes, on valid only, so that the test clips are not used."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.evaluation.linear_probe import valid_accuracies
from maeast_upstream.readout import Readout
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.json_file import read_json

READOUTS = {
    "plain": Readout(layer="last", mel="mean", pool="mean"),
    "rich": Readout(layer="mean", mel="concat", pool="mean_std"),
}
"""Plain averages the tokens of the last layer and shows what the encoder learned. Rich is the readout that valid chose
for the bundled checkpoint at its native hop; it reaches much with random weights, too, and keeps the mel axis."""
SCORED = ("train", "valid")
"""Splits that are used."""


class SetKey(NamedTuple):
    """Identifies a labelled set."""

    name: str
    digest: str
    """Digest of the clips, labels and splits of SCORED."""


Sets = Mapping[SetKey, LabelledSet]
Scores = dict[SetKey, dict[str, float]]
"""Accuracies in per cent, by labelled set and readout."""


def by_key(sets: Sequence[LabelledSet]) -> Sets:
    """The sets by their keys."""
    return {SetKey(labelled.name, labelled.digest(SCORED)): labelled for labelled in sets}


def measure_scores(path: Path, encoder: Encoder, sets: Sets) -> Scores:
    """Read the scores in a file, measure those that it lacks, and write them.

    The scores of a set replace those of another set of the same name.
    """
    scores = read_scores(path)
    for key, labelled in sets.items():
        if key not in scores:
            accuracies = valid_accuracies(labelled, encoder, list(READOUTS.values()))
            scores = {other: values for other, values in scores.items() if other.name != key.name}
            scores[key] = {name: accuracies[readout] for name, readout in READOUTS.items()}
            content = {other.name: {"digest": other.digest, **values} for other, values in scores.items()}
            with replacing(path) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return scores


def read_scores(path: Path) -> Scores:
    """Read what `measure_scores` wrote; an empty mapping if the file does not exist.

    Raises:
        ValueError: The file holds something else.
    """
    if not path.exists():
        return {}
    try:
        scores = read_json(path)
        return {
            SetKey(name, values["digest"]): {readout: float(values[readout]) for readout in READOUTS}
            for name, values in scores.items()
        }
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not the scores of a run; remove the file to measure them again") from error


def score_columns(runs: Sequence[Scores], sets: Collection[SetKey]) -> list[dict[str, Any]]:
    """The columns of a CSV with each run's scores.

    Args:
        runs: the scores of each run; the cells of a run without scores are empty.
        sets: the sets to include; if empty, those that all scored runs share.
    """
    scored = [scores for scores in runs if scores]
    shared = sets or [key for key in next(iter(scored), {}) if all(key in scores for scores in scored)]
    if not shared:
        return [{} for _ in runs]
    rows = [mean_and_each({key.name: scores[key] for key in shared}) if scores else {} for scores in runs]
    empty = {name: "" for row in rows for name in row}
    return [{**empty, **row} for row in rows]


def mean_and_each(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each readout over the sets, then its score on each set."""
    means = {readout: float(np.mean([values[readout] for values in scores.values()])) for readout in READOUTS}
    each = {f"{readout}_{name}": values[readout] for readout in READOUTS for name, values in scores.items()}
    return {name: round(value, 2) for name, value in {**means, **each}.items()}

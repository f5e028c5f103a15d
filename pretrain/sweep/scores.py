"""How well labels are read from a run's frozen encoder: valid accuracies only, so that test stays unread."""

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

READOUTS = {
    "plain": Readout(layer="last", mel="mean", pool="mean"),
    "rich": Readout(layer="mean", mel="concat", pool="mean_std"),
}
"""Plain: the last layer's tokens averaged, which shows the encoder. Rich: what valid chose for the bundled checkpoint
at the model's own hop; it gets much from random weights, too, and gives patches the mel axis that frames have."""


SCORED = ("train", "valid")
"""Splits."""


class SetKey(NamedTuple):
    """Which labelled set a score is of."""

    name: str
    digest: str
    """Of the clips of SCORED; empty in a file of an earlier version."""


Sets = Mapping[SetKey, LabelledSet]
Scores = dict[SetKey, dict[str, float]]
"""By labelled set and readout, in per cent."""


def keyed(sets: Sequence[LabelledSet]) -> Sets:
    """The sets by what tells them apart."""
    return {SetKey(one.name, one.digest(SCORED)): one for one in sets}


def kept_scores(path: Path, encoder: Encoder, sets: Sets) -> Scores:
    """The scores in the file ``path``; what it lacks is measured, and takes the place of another set of its name."""
    scores = read_scores(path)
    for key, one in sets.items():
        if key not in scores:
            accuracies = valid_accuracies(one, encoder, list(READOUTS.values()))
            scores = {other: own for other, own in scores.items() if other.name != key.name}
            scores[key] = {name: accuracies[readout] for name, readout in READOUTS.items()}
            written = {other.name: {"digest": other.digest, **own} for other, own in scores.items()}
            with replacing(path) as part:
                part.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return scores


def read_scores(path: Path) -> Scores:
    """What `kept_scores` wrote; empty where there is no file.

    Raises:
        ValueError: a file that holds something else.
    """
    if not path.exists():
        return {}
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        return {
            SetKey(name, str(own.get("digest", ""))): {readout: float(own[readout]) for readout in READOUTS}
            for name, own in scores.items()
        }
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not the scores of a run; remove it, and they are measured again") from error


def score_columns(runs: Sequence[Scores], sets: Collection[SetKey]) -> list[dict[str, Any]]:
    """What a CSV has of each run's scores on ``sets``; if there are none, on those that all scored runs share.

    The cells of a run without scores are empty.
    """
    scored = [scores for scores in runs if scores]
    shared = sets or [key for key in next(iter(scored), {}) if all(key in scores for scores in scored)]
    if not shared:
        return [{} for _ in runs]
    rows = [mean_and_each({key.name: scores[key] for key in shared}) if scores else {} for scores in runs]
    empty = {name: "" for row in rows for name in row}
    return [{**empty, **row} for row in rows]


def mean_and_each(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Each readout's mean over the sets, then each set's."""
    means = {readout: float(np.mean([one[readout] for one in scores.values()])) for readout in READOUTS}
    each = {f"{readout}_{name}": one[readout] for readout in READOUTS for name, one in scores.items()}
    return {name: round(value, 2) for name, value in {**means, **each}.items()}

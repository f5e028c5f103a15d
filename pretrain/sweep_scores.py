"""How well labels are read from a run's frozen encoder: valid accuracies only, so that test stays unread."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.encoder import Encoder
from maeast_upstream.files import replacing
from maeast_upstream.probe import LabelledSet, valid_accuracies
from maeast_upstream.readout import Readout

READOUTS = {
    "plain": Readout(layer="last", mel="mean", pool="mean"),
    "rich": Readout(layer="mean", mel="concat", pool="mean_std"),
}
"""Plain: the last layer's tokens averaged, which shows the encoder. Rich: what valid chose for the bundled checkpoint
at the model's own hop; it gets much from random weights, too, and gives patches the mel axis that frames have."""

Scores = dict[str, dict[str, float]]
"""By labelled set and readout, in per cent."""


def kept_scores(path: Path, encoder: Encoder, sets: Sequence[LabelledSet]) -> Scores:
    """The scores in the file ``path``; what it lacks is measured and added."""
    scores = read_scores(path)
    for one in sets:
        if one.name not in scores:
            accuracies = valid_accuracies(one, encoder, list(READOUTS.values()))
            scores[one.name] = {name: accuracies[readout] for name, readout in READOUTS.items()}
            with replacing(path) as part:
                part.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return {one.name: scores[one.name] for one in sets}


def read_scores(path: Path) -> Scores:
    """What `kept_scores` wrote; empty where there is no file.

    Raises:
        ValueError: a file that holds something else.
    """
    if not path.exists():
        return {}
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): {readout: float(own[readout]) for readout in READOUTS} for name, own in scores.items()}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not the scores of a run; remove it, and they are measured again") from error


def score_columns(scores: Scores) -> dict[str, float]:
    """What a CSV has of them: each readout's mean over the sets, then each set's."""
    means = {readout: float(np.mean([one[readout] for one in scores.values()])) for readout in READOUTS}
    each = {f"{readout}_{name}": one[readout] for readout in READOUTS for name, one in scores.items()}
    return {name: round(value, 2) for name, value in {**means, **each}.items()}

"""The scores of a classifier as text, and its confusion matrix as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.classification.training import Trained
from maeast_upstream.display import printable
from maeast_upstream.visualization.figures import drawing, drawn_name

MAX_MATRIX_LABELS = 12
"""A larger confusion matrix does not fit a terminal: its largest mistakes are listed."""
MAX_LISTED_MISTAKES = 10
MAX_SHOWN_LABEL = 24
MAX_DRAWN_NUMBERS = 30
"""Numbers are written in the cells of a picture up to this many labels."""
OUTCOMES = ("found", "missed", "wrongly found", "rightly not found")
"""Columns of a confusion matrix with several labels per clip."""


def format_report(trained: Trained) -> str:
    """Format what was chosen, the scores by label, and the confusion matrix."""
    classifier, scores = trained.classifier, trained.scores
    chosen = f"C {classifier.about['C']:g}, temperature {classifier.temperature:.2f}, chosen on {trained.chosen_on}"
    measure = "mean average precision" if classifier.multi_label else "accuracy"
    tried = ", ".join(f"{c:g} {100 * value:.1f} %" for c, value in trained.by_c.items())
    accuracy = "exactly right" if classifier.multi_label else "accuracy"
    means = (
        f"{accuracy} {100 * scores.accuracy:.1f} %, mean average precision {_percent(scores.mean_average_precision)}"
    )
    again = "" if trained.scored_on != trained.chosen_on else CHOSEN_THERE
    parts = [f"{chosen} ({measure}: {tried})", f"{trained.scored_on}: {means}{again}", format_labels(trained)]
    return "\n\n".join([*parts, format_confusion(trained)])


CHOSEN_THERE = "; C and thresholds were chosen on the same clips"


def format_labels(trained: Trained) -> str:
    """Format precision, recall and average precision of each label, in per cent, and its threshold."""
    unit = "windows" if trained.classifier.windows else "clips"
    rows = [["label", unit, "precision", "recall", "AP", "threshold"]]
    for (label, values), threshold in zip(
        trained.scores.labels.items(), trained.classifier.thresholds.tolist(), strict=True
    ):
        cells = [_percent(values[name]) for name in ("precision", "recall", "average_precision")]
        rows.append([shown(label), str(values["clips"]), *cells, f"{threshold:.3f}"])
    return aligned(rows)


def format_confusion(trained: Trained) -> str:
    """Format the confusion matrix, or if it is large its largest mistakes."""
    labels, confusion = trained.classifier.labels, trained.scores.confusion
    if trained.classifier.multi_label:
        rows = [[shown(label), *map(str, counts)] for label, counts in zip(labels, confusion.tolist(), strict=True)]
        return aligned([["label", *OUTCOMES], *rows])
    if len(labels) <= MAX_MATRIX_LABELS:
        head = ["label \\ found", *(shown(label, 12) for label in labels)]
        return aligned([head, *([shown(a), *map(str, row)] for a, row in zip(labels, confusion.tolist(), strict=True))])
    mistakes = confusion - np.diag(np.diag(confusion))
    largest = np.argsort(-mistakes, axis=None, kind="stable")[:MAX_LISTED_MISTAKES]
    pairs = [(*np.unravel_index(place, mistakes.shape), int(mistakes.flat[place])) for place in largest]
    rows = [[shown(labels[a]), shown(labels[b]), str(count)] for a, b, count in pairs if count]
    return aligned([["label", "found", "clips"], *rows]) if rows else "no mistakes"


def shown(label: str, characters: int = MAX_SHOWN_LABEL) -> str:
    """Return a label as a table shows it: in one line, and shortened where it is long."""
    text = printable(label)
    return text if len(text) <= characters else f"{text[: characters - 3]}..."


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def draw_confusion(path: Path, trained: Trained) -> None:
    """Draw the confusion matrix; each row is coloured by the shares of its clips.

    Args:
        path: The picture to write.
        trained: What was fitted.

    Raises:
        ValueError: matplotlib is not installed, or ``path`` cannot be written.
    """
    labels, confusion = trained.classifier.labels, trained.scores.confusion
    columns = OUTCOMES if trained.classifier.multi_label else labels
    height = min(2.0 + 0.25 * len(labels), 40.0)
    width = min(3.5 + 0.3 * max(len(columns), 8), 40.0)
    with drawing(path, width, height) as figure:
        axes = figure.subplots()
        shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        names = [drawn_name(label, MAX_SHOWN_LABEL) for label in labels]
        axes.set_yticks(range(len(labels)), names, parse_math=False)
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(
            range(len(columns)), [drawn_name(name, MAX_SHOWN_LABEL) for name in columns], parse_math=False, **turned
        )
        axes.set_ylabel("label")
        axes.set_xlabel("outcome" if trained.classifier.multi_label else "found label")
        axes.set_title(f"{trained.scored_on}: counts, coloured by the share of the row", fontsize=9)
        if len(labels) <= MAX_DRAWN_NUMBERS:
            for (row, column), count in np.ndenumerate(confusion):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.1f} %"

"""The labels of the rows of a table of embeddings: from a labels.csv, or the folders that the files lie in."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.data.labelled_segments import LabelledSegment, read_labelled_segments
from maeast_upstream.data.labels import NO_NAMES, clip_path
from maeast_upstream.display import from_name
from maeast_upstream.storage.remote import is_remote

SAME_MS = 1.0
"""Times of segments that differ by at most this are equal: a table of labels may round them."""
SEVERAL = ";"
"""What joins the labels of a row that has several, as ``maeast fit --multi-label`` reads them."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of rows."""

    values: list[str | None]
    """By row; None for a row without one."""
    others: int = 0
    """Rows of the labels.csv that belong to no row of the table."""


def folders_of(paths: Sequence[str]) -> list[str]:
    """Return the name of the folder that each path lies in."""
    # abspath, since resolve() would give the folder of a link's target
    return [Path(os.path.abspath(path)).parent.name for path in paths]  # noqa: PTH100


def labels_of(table: Embeddings, file: Path, names: Mapping[str, str] = NO_NAMES) -> Labels:
    """Return the labels that a labels.csv gives to the rows of a table.

    A row of the labels.csv without times belongs to all rows of its file; with times, to those that begin and end
    there. Labels of the same row are joined by `SEVERAL`.

    Args:
        table: Rows of embeddings; relative paths begin at its `root`, or the working folder.
        file: A table that `read_labelled_segments` reads.
        names: What it calls its columns.

    Raises:
        ValueError: As in `read_labelled_segments`.
    """
    rows_of: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (path, start) in enumerate(zip(table.files, table.start_ms.tolist(), strict=True)):
        name = from_name(path)
        found = name if is_remote(name) and not name.startswith("file://") else str(clip_path(Path(), name))
        rows_of[found][round(start)].append(row)
    labels: list[list[str]] = [[] for _ in table.paths]
    others = 0
    for item in read_labelled_segments(file, names):
        rows = _rows(table, rows_of.get(item.path, {}), item)
        others += not rows
        for row in rows:
            labels[row].append(item.label)
    values = [SEVERAL.join(dict.fromkeys(several)) or None for several in labels]
    return Labels(values=values, others=others)


def _rows(table: Embeddings, by_start: Mapping[int, list[int]], item: LabelledSegment) -> list[int]:
    """Return the rows, of those of a file by their start in whole milliseconds, that a label belongs to."""
    if item.start_ms is None and item.end_ms is None:
        return [row for rows in by_start.values() for row in rows]
    start = item.start_ms or 0.0
    near = [row for whole in (-1, 0, 1) for row in by_start.get(round(start) + whole, [])]
    end = float("nan") if item.end_ms is None else item.end_ms
    return [
        row
        for row in near
        # an unknown end, NaN, differs from none
        if abs(table.start_ms[row] - start) <= SAME_MS and not abs(table.end_ms[row] - end) > SAME_MS
    ]

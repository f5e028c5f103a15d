"""Labels of clips, several columns of a table, each of which a head of its own predicts."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.checks import quote
from maeast_upstream.data import embedding_files as files
from maeast_upstream.data.tables import read_header, row_values
from maeast_upstream.display import as_name, as_text
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.text import file_name, lines_of, open_lines
from pretrain.data.batches import Batch
from pretrain.targets.names import match_names
from pretrain.targets.records import read_record
from pretrain.targets.rows import ClipRows

logger = logging.getLogger(__name__)

RECORD_NAME = "labels.json"
"""File of a run folder for the classes that its heads predict."""
NAME_COLUMNS = ("clip", "path", "name")
"""What the column of names may be called; the first that a table has counts."""
SHARD_COLUMN = "shard"
"""A column for the shard that a path is in, as the manifest of a corpus of shards has it."""
SEPARATOR = "|"
"""Separates the labels of a cell. Not the comma, which is part of names such as AudioSet's "Whoop, yell"."""
MAX_CLASSES = 1 << 16
MAX_SHOWN = 12


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one column for the clips of a corpus."""

    name: str
    classes: dict[str, int]
    """Name of each class and number of its clips, in the order of the head's outputs."""
    cells: np.ndarray
    """(clips,) int32 number of each clip's row of ``sets``; -1 where the label is missing."""
    sets: list[list[int]] | None
    """The classes of each different cell; None if cells are numbers of classes, because no cell has several labels."""

    @property
    def has_label(self) -> np.ndarray:
        """(clips,) bool."""
        found: np.ndarray = self.cells >= 0
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of which clip has which label."""
        digest = hashlib.sha256(json.dumps([list(self.classes), self.sets]).encode())
        digest.update(self.cells.astype("<i4").tobytes())
        return digest.hexdigest()

    def of(self, clips: np.ndarray) -> np.ndarray:
        """(B,) numbers of clips, -1 for none -> their targets, as `LabelTarget` gives them."""
        cells = np.where(clips >= 0, self.cells[clips], -1).astype(np.int64)
        if self.sets is None:
            return cells
        targets = np.zeros((len(cells), len(self.classes)), np.float32)
        for row, cell in enumerate(cells.tolist()):
            targets[row, self.sets[cell] if cell >= 0 else slice(None)] = 1 if cell >= 0 else np.nan
        return targets


class LabelTarget:
    """Looks the labels of clips up: ``label0``, ``label1``, ... in the order of the columns."""

    def __init__(self, table: str, columns: Sequence[LabelColumn], rows: ClipRows) -> None:
        self.table, self.columns, self.clip_rows = table, columns, rows

    def __call__(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """Of each column (B,) int64 classes, -1 where missing, or (B, classes) float32, NaN where missing; weights."""
        clips = self.clip_rows.clips(batch)
        values: dict[str, Tensor] = {}
        for number, column in enumerate(self.columns):
            values[f"label{number}"] = torch.from_numpy(column.of(clips))
            values[f"label{number}_weights"] = self.clip_rows.weights(batch, column.has_label)
        return {name: value.to(device, non_blocking=True) for name, value in values.items()}

    def record(self) -> dict[str, Any]:
        """The classes of each column, the number of their clips and a digest, as `write_record` stores them."""
        columns = {
            column.name: {
                "several_labels": column.sets is not None,
                "digest": column.digest,
                "classes": column.classes,
            }
            for column in self.columns
        }
        return {"table": self.table, "columns": columns}


def open_labels(table: str, columns: Sequence[str], clips: Sequence[str], rows: ClipRows) -> LabelTarget:
    """Read columns of a table and match its rows with the clips of a corpus.

    Args:
        table: CSV, TSV or parquet with a column of names (clip, path or name).
        columns: The names of columns of labels. An empty cell is a missing label; ``|`` separates several.
        clips: The names of the clips.
        rows: Finds the clips of rows.

    Raises:
        ValueError: The table is missing or broken, has not the columns, none of its names is a clip, a clip has
            different labels, or a column has fewer than two classes.
    """
    names, cells = _read(table, columns)
    numbers = match_names(names, clips, table)
    found = [
        _column(table, name, [row[index] for row in cells], numbers, len(clips)) for index, name in enumerate(columns)
    ]
    for column in found:
        largest = Counter(column.classes).most_common(MAX_SHOWN)
        shown = ", ".join(f"{as_text(name)} {count}" for name, count in largest)
        more = f" and {len(column.classes) - len(largest)} more" if len(column.classes) > len(largest) else ""
        logger.info(
            "%s: %s of %d of %d clips, %d classes: %s%s",
            table,
            column.name,
            column.has_label.sum(),
            len(clips),
            len(column.classes),
            shown,
            more,
        )
    return LabelTarget(table, found, rows)


def _column(table: str, name: str, cells: Sequence[str], numbers: np.ndarray, clips: int) -> LabelColumn:
    """The labels of a column, from the cell and the clip of each row of the table."""
    labels: dict[int, tuple[str, ...]] = {}
    for cell, clip in zip(cells, numbers.tolist(), strict=True):
        given = tuple(sorted({label for part in cell.split(SEPARATOR) if (label := part.strip())}))
        if clip < 0 or not given:
            continue
        if labels.setdefault(clip, given) != given:
            both = " and ".join(quote(SEPARATOR.join(each)) for each in (labels[clip], given))
            raise ValueError(f"{table}: a clip has two different labels in column {name}, {both}")
    counts = Counter(label for given in labels.values() for label in given)
    if not 2 <= len(counts) <= MAX_CLASSES:
        found = f"{len(counts)} {'class' if len(counts) == 1 else 'classes'} among the clips of the corpus"
        raise ValueError(f"{table}: column {name} has {found}; expected 2 to {MAX_CLASSES}")
    classes = {label: counts[label] for label in sorted(counts)}
    outputs = {label: number for number, label in enumerate(classes)}
    column = np.full(clips, -1, np.int32)
    if all(len(given) == 1 for given in labels.values()):
        column[list(labels)] = [outputs[given[0]] for given in labels.values()]
        return LabelColumn(name, classes, column, None)
    different = {given: number for number, given in enumerate(sorted(set(labels.values())))}
    column[list(labels)] = [different[given] for given in labels.values()]
    return LabelColumn(name, classes, column, [[outputs[label] for label in given] for given in different])


def _read(table: str, columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The names of a table as `display.as_name` gives them, and its cells in some columns."""
    path = Path(table)
    if not path.is_file():
        raise ValueError(f"labels {table}: no such file; expected CSV, TSV or parquet with a column clip, path or name")
    read = _parquet_rows if path.suffix.lower() == ".parquet" else _text_rows
    names, cells = [], []
    for name, row in read(table, columns):
        names.append(name)
        cells.append(row)
    return names, cells


def _text_rows(table: str, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    with open_lines(table) as file:
        lines = lines_of(file, table)
        header = read_header(lines, table, columns[0])
        name, chosen = _chosen(table, header.columns, columns)
        shard = next((given for given in header.columns if given.casefold() == SHARD_COLUMN), None)
        try:
            indices = [header.index(column) for column in chosen]
            places = [header.index(column) for column in (shard, name) if column is not None]
        except ValueError as error:
            raise ValueError(f"labels {table}: {error}") from error
        for _, values in row_values(lines, header, table, first=1):
            parts = [as_name(file_name(from_cell(values[place]))) for place in places]
            yield "/".join(parts), [from_cell(values[index].strip()) for index in indices]


def _parquet_rows(table: str, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    with files.opened(Path(table)) as file:
        given = file.schema_arrow.names
        name, chosen = _chosen(table, given, columns)
        shard = next((column for column in given if column.casefold() == SHARD_COLUMN), None)
        places = [column for column in (shard, name) if column is not None]
        for column in (*places, *chosen):
            if given.count(column) > 1:
                raise ValueError(f"labels {table}: two columns are called {column!r}; expected one")
        for batch in files.read_batches(
            Path(table), file, list({*places, *chosen}), range(file.num_row_groups), 1 << 14
        ):
            for row in batch.to_pylist():
                yield "/".join(str(row[place]) for place in places), [_text(row[column]) for column in chosen]


def _text(value: object) -> str:
    """A cell of a parquet file as text; a list of labels becomes one cell."""
    if isinstance(value, list):
        return SEPARATOR.join(map(_text, value))
    missing = value is None or value != value  # NaN, as pandas and polars write it
    return "" if missing else str(value)


def _chosen(table: str, given: Sequence[str], columns: Sequence[str]) -> tuple[str, list[str]]:
    """The table's own names of its column of names and of the columns of labels."""
    own = {column.casefold(): column for column in reversed(given)}
    name = next((own[column] for column in NAME_COLUMNS if column in own), None)
    if name is None:
        raise ValueError(f"labels {table}: no column {', '.join(NAME_COLUMNS)}; it has {', '.join(given[:MAX_SHOWN])}")
    if missing := [column for column in columns if column.casefold() not in own]:
        raise ValueError(f"labels {table}: no column {missing[0]!r}; it has {', '.join(given[:MAX_SHOWN])}")
    return name, [own[column.casefold()] for column in columns]


def write_record(run: Path, target: LabelTarget) -> None:
    """Write the classes that a run's heads predict, unless they are there."""
    if not (run / RECORD_NAME).exists():
        with replacing(run / RECORD_NAME) as part:
            part.write_text(json.dumps(target.record(), indent=1))


def refuse_other_classes(run: Path, target: LabelTarget) -> None:
    """Raise ValueError if a run was begun with other classes, whose heads would mean something else.

    Other labels of the same classes give a warning only, since a corpus may grow and labels be corrected.
    """
    begun_with = read_record(run / RECORD_NAME)
    if begun_with is None:
        return
    for name, column in target.record()["columns"].items():
        before = _classes(begun_with, name)
        if before is not None and before != list(column["classes"]):
            changed = sorted(set(before) ^ set(column["classes"]))
            raise ValueError(
                f"{run} was begun with {len(before)} classes of {name}, and labels {target.table} has "
                f"{len(column['classes'])} (differs: {', '.join(map(quote, changed[:3]))}): give the same labels, or "
                "another --out"
            )
        if before is not None and begun_with["columns"][name].get("several_labels") != column["several_labels"]:
            forms = ("one label", "several labels")
            begun, now = forms if column["several_labels"] else forms[::-1]
            raise ValueError(
                f"{run} was begun with {begun} of {name} in a cell, and labels {target.table} has {now}: give the "
                "same labels, or another --out"
            )
        if before is not None and begun_with["columns"][name].get("digest", column["digest"]) != column["digest"]:
            logger.warning(
                "%s was begun with other labels of %s, or labels of other clips, than %s gives now: it continues with "
                "these",
                run,
                name,
                target.table,
            )


def _classes(record: Mapping[str, Any], name: str) -> list[str] | None:
    try:
        return list(record["columns"][name]["classes"])
    except (KeyError, TypeError):
        return None

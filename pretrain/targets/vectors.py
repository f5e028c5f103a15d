"""Vectors of teachers: looked up in tables by clip and time, or computed by a checkpoint.

Source: S-SONDO, arXiv 2604.24933, which trains a small encoder on the embeddings of a large one by their cosine.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.classification.standardize import Standardization
from maeast_upstream.config import scene_width
from maeast_upstream.encoder import load_model
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.storage.atomic import replacing
from pretrain.data.batches import Batch
from pretrain.recipe import Precision
from pretrain.targets.names import match_names
from pretrain.targets.records import read_record
from pretrain.targets.rows import ClipRows, present
from pretrain.targets.vector_files import FORMS, is_table, read_vector_rows

logger = logging.getLogger(__name__)

RECORD_NAME = "teachers.json"
"""File of a run folder for the digests of its teachers."""
MIN_DEVIATION = 1e-4
"""Of a value, as a share of the largest one; values that vary less are left out when vectors are standardized."""


@dataclass(frozen=True)
class TeacherVectors:
    """The vectors of a table for the clips of a corpus."""

    vectors: np.ndarray
    """(rows, E) float16 of unit length, in the order of the table, mapped to a file without a name."""
    order: np.ndarray
    """(used rows,) int64 numbers of the rows that belong to a clip, by clip and then by time."""
    first: np.ndarray
    """(clips + 1,) int64: the rows of clip i are ``order[first[i] : first[i + 1]]``."""
    middles: np.ndarray
    """(used rows,) float64 middle of each row's part of its clip in seconds, in the order of ``order``."""

    @property
    def has_vector(self) -> np.ndarray:
        """(clips,) bool, which clips have a vector."""
        found: np.ndarray = np.diff(self.first) > 0
        return found

    @property
    def digest(self) -> str:
        """Identifies the vectors and where they belong."""
        digest = hashlib.sha256()
        for values in (self.first, self.middles, self.order, self.vectors):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()[:16]

    def rows(self, clips: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """(B, E) float32: of each clip the vector whose middle is nearest to a time in it; NaN where there is none."""
        found = np.full((len(clips), self.vectors.shape[1]), np.nan, np.float32)
        for row in np.flatnonzero(present(self.has_vector, clips)):
            span = slice(*self.first[clips[row] : clips[row] + 2])
            nearest = np.abs(self.middles[span] - seconds[row]).argmin()
            found[row] = self.vectors[self.order[span][nearest]]
        return found


def read_teacher_vectors(
    path: Path, clips: Sequence[str], lengths: np.ndarray, standardize: bool = False
) -> TeacherVectors:
    """Read a table and match it with the clips of a corpus.

    Args:
        path: The table, see `read_vector_rows`.
        clips: The names of the clips.
        lengths: (clips,) their samples.
        standardize: Give each value mean 0 and deviation 1 over the rows of the table before lengths become 1.

    Raises:
        ValueError: The table is broken, or none of its names is a clip.
    """
    names: list[str] = []
    times: list[np.ndarray] = []
    width, usable = 1, [np.zeros(0, bool)]
    standardization = standardization_of(path) if standardize else None
    with tempfile.TemporaryFile(prefix="maeast-vectors-") as file:
        for block in read_vector_rows(path):
            unit, known = unit_vectors(block.vectors, standardization)
            file.write(unit.tobytes())
            names += block.names
            times.append(np.stack([block.start_ms, block.end_ms]))
            usable.append(known)
            width = unit.shape[1]
        file.flush()
        numbers = match_names(names, clips, str(path))
        vectors = np.memmap(file, np.float16, "r", shape=(len(names), width))
    without = int((~np.concatenate(usable)).sum())
    numbers[~np.concatenate(usable)] = -1
    start, end = np.concatenate(times, axis=1) / 1000
    middles = (np.nan_to_num(start) + np.where(np.isnan(end), lengths[numbers] / SAMPLE_RATE, end)) / 2
    order = np.lexsort((middles, numbers))[int((numbers < 0).sum()) :]
    first = np.searchsorted(numbers[order], np.arange(len(lengths) + 1))
    found = TeacherVectors(vectors, order, first, middles[order])
    logger.info(
        "%s: vectors of %d values for %d of %d clips, from %d of its %d rows%s",
        path,
        width,
        found.has_vector.sum(),
        len(lengths),
        len(order),
        len(names),
        f"; {without} rows are zero or not finite and left out" if without else "",
    )
    if not len(order):
        raise ValueError(f"{path}: no vector of a clip of the corpus is finite and has a length above 0")
    return found


def unit_vectors(vectors: np.ndarray, standardization: Standardization | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(n, E) vectors -> the same with unit length as float16, and (n,) bool, False for those without a direction."""
    wide, usable = vectors.astype(np.float64), has_direction(vectors)
    if standardization is not None:
        usable &= has_direction(wide := standardization(np.where(usable[:, None], wide, 0.0)))
    with np.errstate(invalid="ignore", over="ignore"):
        length = np.sqrt(np.square(wide).sum(axis=1))
        unit = wide / np.where(usable, length, 1.0)[:, None]
    return np.where(usable[:, None], unit, 0.0).astype(np.float16), usable


def has_direction(vectors: np.ndarray) -> np.ndarray:
    """(n, E) vectors -> (n,) bool, whether a vector's length is finite and above 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.square(vectors.astype(np.float64)).sum(axis=1)
    found: np.ndarray = np.isfinite(squares) & (squares > 0)
    return found


def standardization_of(path: Path) -> Standardization:
    """Measure the mean and deviation of each value over the rows of a table that have a direction, in constant memory.

    The deviation is the root of the mean square minus the squared mean, of the values minus those of the first row.
    """
    count, first, total, squares = 0, None, np.zeros(1), np.zeros(1)
    for block in read_vector_rows(path):
        rows = block.vectors[has_direction(block.vectors)].astype(np.float64)
        if first is None and len(rows):
            first = rows[0].copy()
        if first is not None:
            rows -= first
            count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + np.square(rows).sum(axis=0)
    if first is None:
        raise ValueError(f"{path}: no vector is finite and has a length above 0")
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    return Standardization(first + mean, np.where(deviation > MIN_DEVIATION * deviation.max(), deviation, np.inf))


class TableTeacher:
    """Looks the vectors of a table up."""

    def __init__(self, name: str, table: TeacherVectors, rows: ClipRows) -> None:
        """Remember the vectors; ``name`` is that of the target."""
        self.name, self.table, self.clip_rows = name, table, rows
        self.width = int(table.vectors.shape[1])
        self.digest = table.digest

    def __call__(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The vectors of the rows, NaN for those without, and the weights of the rows."""
        vectors = torch.from_numpy(self.table.rows(self.clip_rows.clips(batch), self.clip_rows.middles(batch)))
        weights = self.clip_rows.weights(batch, self.table.has_vector)
        values = {self.name: vectors, f"{self.name}_weights": weights}
        return {name: value.to(device, non_blocking=True) for name, value in values.items()}


class CheckpointTeacher:
    """Computes the vectors of rows with an encoder, which sees them whole, by its own readout."""

    def __init__(self, name: str, checkpoint: str, precision: Precision) -> None:
        """Load the encoder; ValueError if there is none."""
        self.name = name
        self.encoder = load_model(checkpoint, precision=precision)
        self.width = scene_width(self.encoder.config, self.encoder.config.readout)
        self.digest = fingerprint(self.encoder, self.encoder.config.readout)

    def __call__(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """The vectors of the rows."""
        self.encoder.to(device)
        lengths = batch.lengths.tolist()
        clips = [row[:length] for row, length in zip(batch.waveforms.to(device), lengths, strict=True)]
        with torch.no_grad():
            (vectors,) = self.encoder.embed_readouts(clips, [self.encoder.config.readout])
        return {self.name: vectors.float()}


def open_teachers(
    teachers: str,
    clips: Sequence[str] | None,
    rows: ClipRows | None,
    precision: Precision,
    standardize: bool = False,
) -> list[TableTeacher | CheckpointTeacher]:
    """Open the teachers of a recipe.

    Args:
        teachers: Tables and checkpoints, separated by commas.
        clips: The names of the clips of the corpus; None if they have no numbers.
        rows: Finds the clips of rows; None as ``clips``.
        precision: Of the matrix products of checkpoints.
        standardize: As in `read_teacher_vectors`; all teachers must be tables.

    Raises:
        ValueError: One is neither, or cannot be read, or is a table with none of the clips, or is a checkpoint whose
            vectors are to be standardized; in one line.
    """
    opened: list[TableTeacher | CheckpointTeacher] = []
    for number, name in enumerate(part for text in teachers.split(",") if (part := text.strip())):
        target = f"teacher{number}"
        if not is_table(Path(name)):
            if standardize:
                raise ValueError(f"teacher {name}: losses.teacher_standardize needs a table of vectors, {FORMS}")
            try:
                opened.append(CheckpointTeacher(target, name, precision))
            except ValueError as error:
                raise ValueError(f"teacher {name}: neither {FORMS} nor a checkpoint ({error})") from error
        elif clips is None or rows is None:
            raise ValueError(
                f"teacher {name}: a table of vectors needs a packed corpus: give data.pack true, and not synth: alone"
            )
        else:
            opened.append(
                TableTeacher(target, read_teacher_vectors(Path(name), clips, rows.lengths, standardize), rows)
            )
    return opened


def write_digests(run: Path, teachers: Sequence[TableTeacher | CheckpointTeacher]) -> None:
    """Write the digests of a run's teachers, unless they are there."""
    if teachers and not (run / RECORD_NAME).exists():
        with replacing(run / RECORD_NAME) as part:
            part.write_text(json.dumps([teacher.digest for teacher in teachers]))


def refuse_other_teachers(run: Path, given: str, teachers: Sequence[TableTeacher | CheckpointTeacher]) -> None:
    """Raise ValueError if a run was begun with other vectors than the teachers have now."""
    begun_with = read_record(run / RECORD_NAME)
    if begun_with not in (None, [teacher.digest for teacher in teachers]):
        raise ValueError(
            f"{run} was begun with other vectors than those of {given}: give the same teacher, or another --out"
        )

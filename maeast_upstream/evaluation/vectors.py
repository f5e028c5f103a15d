"""Reads the vectors of other extractors, and the scores that ``maeast finetune`` wrote, for a comparison."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.data.labels import read_table
from maeast_upstream.data.tables import parse_number, read_header, row_values
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.text import file_name, lines_of, open_lines


@dataclass(frozen=True)
class VectorTable:
    """Another extractor's vectors."""

    digest: str
    """SHA-256 of the file."""
    vectors: dict[Path, np.ndarray]
    """By resolved path of the clip."""

    def of(self, labelled_set: LabelledSet) -> np.ndarray:
        """Return the vectors of a set's clips, (clips, dimensions)."""
        return np.stack([self.vectors[clip.resolve()] for clip in labelled_set.paths])


def read_vectors(path: Path, sets: Sequence[LabelledSet]) -> VectorTable:
    """Read vectors by clip.

    Args:
        path: an .npz with ``path`` (n,) and ``vector`` (n, dimensions), or a CSV with a column path and numbers.
        sets: whose clips must all be in the file.

    Raises:
        ValueError: there is no such file, it has another form, it lists a clip twice, or a clip of the sets is missing.
    """
    try:
        names, vectors = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
        clips = [Path(name).resolve() for name in names]
        if vectors.ndim != 2 or len(vectors) != len(clips) or not vectors.size or not np.isfinite(vectors).all():
            raise ValueError(f"not a vector of finite numbers for each path, but of shape {vectors.shape}")
        if len(set(clips)) < len(clips):
            raise ValueError("a path is listed twice")
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected an .npz with path and vector, or a CSV with path and numbers ({error})"
        ) from error
    table = dict(zip(clips, vectors, strict=True))
    for each in sets:
        missing = [clip for clip in each.paths if clip.resolve() not in table]
        if missing:
            raise ValueError(f"{path}: no vector of {missing[0]}, a clip of {each.name} ({len(missing)} missing)")
    with path.open("rb") as file:
        return VectorTable(hashlib.file_digest(file, "sha256").hexdigest(), table)


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return [str(name) for name in arrays["path"]], np.asarray(arrays["vector"], np.float64)


def _read_csv(path: Path) -> tuple[list[str], np.ndarray]:
    with open_lines(str(path)) as file:
        lines = lines_of(file, str(path))
        header = read_header(lines, str(path), "path")
        column = header.index("path")
        names, vectors = [], []
        for _, row in row_values(lines, header, str(path), first=1):
            names.append(file_name(row.pop(column)))
            vectors.append(np.array([parse_number(value, header.separator) for value in row]))
    return names, np.stack(vectors)


def read_finetuned(path: Path, sets: Sequence[LabelledSet]) -> dict[str, float]:
    """Read test accuracies by set from a scores.csv of ``maeast finetune``.

    Raises:
        ValueError: the file has another form, lists a set twice, or has none of ``sets``.
    """
    scores: dict[str, float] = {}
    for cell, text in read_table(path, ["set", "test_accuracy"]):
        name = from_cell(cell)
        try:
            score = parse_number(text)
        except ValueError:
            score = -1.0
        if name in scores or not 0.0 <= score <= 100.0:
            raise ValueError(f"{path}: expected each set once, with an accuracy of 0 to 100; got {name}, {text}")
        scores[name] = score
    if not any(each.name in scores for each in sets):
        raise ValueError(f"{path}: has {', '.join(scores)}, none of the sets {', '.join(each.name for each in sets)}")
    return scores

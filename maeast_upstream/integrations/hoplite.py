"""Tables of embeddings to and from databases of Perch-Hoplite (SQLite and USearch).

BirdNET-Analyzer, OpenSoundscape and Perch's notebooks search and label these. A database holds recordings by name, the
windows of each with their times and a float16 vector, and labels of parts of recordings.
"""

import contextlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from maeast_upstream.data.embedding_files import find_files, opened
from maeast_upstream.data.embeddings import METADATA_KEY, Embeddings, EmbeddingTable
from maeast_upstream.data.labelled_segments import LabelledSegment
from maeast_upstream.display import from_name
from maeast_upstream.extract.table import EmbeddingSpec, make_schema
from maeast_upstream.messages import install_extra, shortened
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.atomic import replacing, replacing_folder
from maeast_upstream.storage.delimited import write_csv

DATABASE, INDEX = "hoplite.sqlite", "usearch.index"
"""The two files of a database."""
KEY = "maeast"
"""Key of the database's metadata for what the table says about itself; also who gave the labels."""
LARGEST = 65_504.0
"""The largest float16."""
BLOCK_ROWS = 1024
FAULTS = (sqlite3.Error, RuntimeError, json.JSONDecodeError, KeyError, AttributeError, TypeError, IndexError)
"""What Perch-Hoplite, its libraries and our reading raise where a database has not the form that it should have."""


@dataclass(frozen=True)
class Transferred:
    """What was written."""

    rows: int
    """Windows with a vector."""
    labels: int
    """Labels of parts of recordings."""
    left_out: dict[str, int]
    """What was not written, by its kind."""


def is_database(path: Path) -> bool:
    """Whether a folder holds a database of Perch-Hoplite."""
    return (path / DATABASE).is_file()


def export_hoplite(
    table: EmbeddingTable,
    folder: Path,
    labels: Iterable[LabelledSegment] = (),
    *,
    dataset: str = "maeast",
    audio: Path | None = None,
    normalize: bool = False,
) -> Transferred:
    """Write a table of scene embeddings as a database; an earlier folder of that name is replaced.

    Args:
        table: Its rows need end times, as those of ``maeast embed`` have them.
        folder: The database.
        labels: Labels of recordings of the table, or of parts of them; others are counted as left out.
        dataset: What the database calls the collection.
        audio: Where relative paths of the table start, so that other programs find the audio; None for the table's own
            folder of names, or the current one.
        normalize: Scale vectors to length 1, so that the inner product, by which the database searches, is the cosine.

    Raises:
        ValueError: Perch-Hoplite is not installed; a row has no end, or a vector is zero (with ``normalize``) or
            beyond float16.
    """
    sqlite_usearch, datatypes, config_dict = _library()
    if not table.rows:
        raise ValueError(f"{table.path}: no rows, so that the length of a vector is not known")
    with replacing_folder(folder) as part, _closing() as close:
        settings = sqlite_usearch.get_default_usearch_config(table.dimensions)
        database = close(sqlite_usearch.SQLiteUSearchDB.create(os.fspath(part), settings))
        database.add_extra_table_column("windows", "segment", int)
        base = os.path.abspath(audio or table.root or ".")  # noqa: PTH100
        for key, value in _metadata(table, dataset, base, normalize).items():
            database.insert_metadata(key, config_dict.ConfigDict(value))
        recordings, first = _Recordings(database, dataset), 0
        blocks = table.blocks(BLOCK_ROWS)
        for block in progress_bar(blocks, total=-(-table.rows // BLOCK_ROWS), desc="insert", unit="block"):
            vectors = _checked(table, block, first, normalize)
            windows = [
                {"recording_id": recordings.number(path), "offsets": offsets, "segment": segment}
                for path, offsets, segment in zip(block.paths, _offsets(block), block.segments.tolist(), strict=True)
            ]
            database.insert_windows_batch(windows, vectors, handle_duplicates="allow")
            first += len(windows)
        written, others = recordings.insert_labels(base, labels, datatypes.LabelType.POSITIVE)
        database.commit()
    return Transferred(first, written, {"label of a recording that is not in the table": others} if others else {})


def import_hoplite(folder: Path, output: Path, labels: Path | None = None, dataset: str | None = None) -> Transferred:
    """Write the windows of a database as a table of embeddings (Parquet), and its labels as a table of labels.

    Args:
        folder: The database.
        output: The table, with columns path, segment, start_ms, end_ms and vector (float16), and ``layer`` where the
            vectors are those of a table that was exported.
        labels: A CSV for the positive labels, with path, label, start_ms and end_ms; None to leave them out.
        dataset: Only of this collection; None for all.

    Raises:
        ValueError: Perch-Hoplite is not installed, the folder is no database or a broken one, two recordings have the
            same name, there is no such dataset, or a vector is not finite.
    """
    sqlite_usearch, datatypes, config_dict = _library()
    _refuse_broken(folder)
    try:
        with _closing() as close:
            database = close(sqlite_usearch.SQLiteUSearchDB.create(os.fspath(folder), readonly=True))
            names = _names(database, dataset, config_dict)
            left_out: Counter[str] = Counter()
            found = _labels(database, names, datatypes.LabelType.POSITIVE, left_out) if labels is not None else []
            rows = _write_table(database, names, output, left_out)
            if labels is not None and found:
                write_csv(labels, [("path", "label", "start_ms", "end_ms"), *found])
    except FAULTS as error:
        raise ValueError(f"{folder}: a broken database of Perch-Hoplite ({shortened(error)})") from error
    return Transferred(rows, len(found), dict(+left_out))  # without zeros


def _library() -> tuple[Any, Any, Any]:
    """Import what is needed of Perch-Hoplite; ValueError if it is not installed."""
    try:
        from ml_collections import config_dict
        from perch_hoplite.db import datatypes, sqlite_usearch_impl
    except ImportError as error:
        raise ValueError(f"Perch-Hoplite cannot be imported ({error}): {install_extra('hoplite')}") from error
    return sqlite_usearch_impl, datatypes, config_dict


@contextlib.contextmanager
def _closing() -> Iterator[Any]:
    """Yield a function that returns a database, which is closed at the end."""
    with contextlib.ExitStack() as stack:

        def close(database: Any) -> Any:
            stack.callback(database.db.close)
            return database

        yield close


def _metadata(table: EmbeddingTable, dataset: str, base: str, normalize: bool) -> dict[str, Any]:
    """Return what the database says about its vectors and audio, in the words of Perch-Hoplite; and the table's own."""
    origin, with_origin = table.origin, {}
    if origin is not None and origin.reduction is None and not normalize:
        with opened(find_files(table.path)[0]) as file:
            with_origin = {"table": file.schema_arrow.metadata[METADATA_KEY.encode()].decode(), "layer": table.layer}
    window = None if origin is None or origin.windows is None else origin.windows
    model = {
        "checkpoint": "" if origin is None else origin.checkpoint,
        "fingerprint": "" if origin is None else origin.fingerprint,
        "sample_rate": 16_000,
        "window_size_s": None if window is None else window.seconds,
        "hop_size_s": None if window is None else window.seconds - window.overlap,
    }
    source = {"dataset_name": dataset, "base_path": base, "file_glob": "**/*", "shard_len_s": None}
    return {
        "model_config": {"model_key": KEY, "embedding_dim": table.dimensions, "model_config": model},
        "audio_sources": {"audio_globs": [source]},
        KEY: with_origin,
    }


def _checked(table: EmbeddingTable, block: Embeddings, first: int, normalize: bool) -> np.ndarray:
    """Return the vectors of a block as they are stored; ValueError for a row that a database cannot hold."""
    if np.isnan(block.end_ms).any():
        row = int(np.isnan(block.end_ms).argmax())
        raise ValueError(f"{table.path}: row {first + row} ({block.paths[row]}) has no end_ms, which a database needs")
    vectors = block.vectors
    if normalize:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not lengths.all():
            raise ValueError(f"{table.path}: row {first + int(lengths.argmin())} is zero, which has no direction")
        vectors = vectors / lengths
    if len(vectors) and (peak := np.abs(vectors).max()) > LARGEST:
        raise ValueError(f"{table.path}: values up to {peak:.3g}, which float16 does not hold: give --normalize")
    return vectors


def _offsets(block: Embeddings) -> list[list[float]]:
    """Return start and end of each row in seconds."""
    seconds: list[list[float]] = (np.stack([block.start_ms, block.end_ms], axis=1) / 1000.0).tolist()
    return seconds


class _Recordings:
    """The recordings of a database that is being written."""

    def __init__(self, database: Any, dataset: str) -> None:
        self._database, self._dataset = database, dataset
        self._deployments: dict[str, int] = {}
        self._numbers: dict[str, int] = {}

    def number(self, path: str) -> int:
        """Return the number of a recording, which is inserted if it is new.

        As in Perch's own databases, the first folder of a relative path is its deployment.
        """
        if path not in self._numbers:
            first, *others = PurePosixPath(path).parts or ("",)
            name = first if others and first not in ("/", "..") else self._dataset
            if name not in self._deployments:
                self._deployments[name] = self._database.insert_deployment(name, self._dataset)
            self._numbers[path] = self._database.insert_recording(path, deployment_id=self._deployments[name])
        return self._numbers[path]

    def insert_labels(self, base: str, labels: Iterable[LabelledSegment], kind: Any) -> tuple[int, int]:
        """Insert labels; return how many were inserted, and how many are of no recording of the database."""
        numbers = {
            os.path.realpath(os.path.join(base, from_name(path))): number  # noqa: PTH118
            for path, number in self._numbers.items()
        }
        ends: dict[int, float] = {}
        written = others = 0
        for label in labels:
            number = numbers.get(label.path)
            if number is None:
                others += 1
                continue
            if label.end_ms is None and not ends:
                for window in self._database.get_all_windows():
                    ends[window.recording_id] = max(ends.get(window.recording_id, 0.0), window.offsets[1])
            end = ends[number] if label.end_ms is None else label.end_ms / 1000.0
            offsets = [(label.start_ms or 0.0) / 1000.0, end]
            self._database.insert_annotation(number, offsets, label.label, kind, KEY, handle_duplicates="allow")
            written += 1
        return written, others


def _refuse_broken(folder: Path) -> None:
    """Raise ValueError unless a folder holds the two files of a database, and the index is one of USearch."""
    from usearch.index import Index

    for name in (DATABASE, INDEX):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: not a database of Perch-Hoplite: no {name} in it")
    if (folder / DATABASE).read_bytes()[:16] != b"SQLite format 3\0":
        raise ValueError(f"{folder / DATABASE}: not a database of SQLite")
    try:
        facts = Index.metadata(folder / INDEX)
    except Exception as error:  # of the C++ library
        raise ValueError(f"{folder / INDEX}: a broken index of USearch ({shortened(error)})") from error
    size = (folder / INDEX).stat().st_size
    if not facts or facts["count_present"] * facts["dimensions"] * 2 > size:
        raise ValueError(f"{folder / INDEX}: not an index of USearch, or a part of one")


def _names(database: Any, dataset: str | None, config_dict: Any) -> dict[int, str]:
    """Return the names of the recordings of a dataset, or of all, by their numbers."""
    projects = {item.id: item.project for item in database.get_all_deployments()}
    if dataset is not None and dataset not in projects.values():
        known = ", ".join(sorted(set(projects.values()))) or "none"
        raise ValueError(f"no dataset {dataset!r} in the database; it has {known}")
    names = {
        recording.id: recording.filename
        for recording in database.get_all_recordings()
        if dataset is None or projects.get(recording.deployment_id) == dataset
    }
    twice = next((name for name, count in Counter(names.values()).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"two recordings of the database are called {twice!r}: choose a dataset by --dataset")
    return names


def _labels(database: Any, names: dict[int, str], kind: Any, left_out: Counter[str]) -> list[tuple[str, ...]]:
    """Return the labels of a kind of the named recordings: path, label, start_ms, end_ms."""
    found: list[tuple[str, ...]] = []
    for annotation in database.get_all_annotations():
        if annotation.recording_id in names and annotation.label_type == kind:
            start, end = (f"{1000.0 * value:.10g}" for value in annotation.offsets[:2])
            found.append((names[annotation.recording_id], annotation.label, start, end))
        left_out["label that is not positive"] += annotation.recording_id in names and annotation.label_type != kind
    return found


def _write_table(database: Any, names: dict[int, str], output: Path, left_out: Counter[str]) -> int:
    """Write the windows of the named recordings, block by block; return their number."""
    import pyarrow.parquet as pq

    about = database.get_metadata(None).get(KEY) or {}
    metadata = None
    if text := about.get("table"):
        content = json.loads(text)
        content["settings"]["vectors"] = "float16"
        metadata = {METADATA_KEY: json.dumps(content)}
    schema = make_schema(EmbeddingSpec(vectors="float16"), database.ui.ndim, metadata)
    if not about.get("layer"):
        schema = schema.remove(schema.get_field_index("layer"))
    ids = np.array(database.match_window_ids(), np.int64)
    rows = 0
    with replacing(output) as part, pq.ParquetWriter(part, schema) as writer:
        for start in range(0, len(ids), BLOCK_ROWS):
            block = ids[start : start + BLOCK_ROWS]
            present = block[database.ui.contains(block)]
            left_out["window without a vector"] += len(block) - len(present)
            windows = [window for window in map(database.get_window, present) if window.recording_id in names]
            if windows:
                writer.write_table(_arrow(database, names, windows, schema, about.get("layer")))
                rows += len(windows)
        if not rows:
            raise ValueError(f"{output}: nothing to write: the database has no window with a vector")
    return rows


def _arrow(database: Any, names: dict[int, str], windows: Sequence[Any], schema: Any, layer: str | None) -> Any:
    """Return windows as rows of the table."""
    import pyarrow as pa

    vectors = database.get_embeddings_batch(np.array([window.id for window in windows])).astype(np.float16)
    if not np.isfinite(vectors).all():
        raise ValueError("NaN or infinite values in the embeddings of the database")
    offsets = 1000.0 * np.array([window.offsets[:2] for window in windows], np.float64)
    columns: dict[str, Any] = {
        "path": [names[window.recording_id] for window in windows],
        "segment": [getattr(window, "segment", None) or 0 for window in windows],
        "start_ms": offsets[:, 0],
        "end_ms": offsets[:, 1],
        "layer": [layer] * len(windows),
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema if field.name != "vector"]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table([*arrays, flat], schema=schema)

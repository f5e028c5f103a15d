"""Reads tables of vectors by clip, a block of rows at a time: parquet, npz, CSV, or folders of parquet or npy files."""

import itertools
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.checkpoint.layout import CONFIG_NAME, RUN_ENCODERS
from maeast_upstream.data import embedding_files as files
from maeast_upstream.data.tables import parse_number, read_header, row_values
from maeast_upstream.data.times import TIME_COLUMNS, TimeColumns
from maeast_upstream.display import as_name
from maeast_upstream.messages import shortened
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.text import file_name, lines_of, open_lines

if TYPE_CHECKING:
    import pyarrow as pa

FILE_SUFFIXES = (".parquet", ".npz", ".csv", ".tsv")
NAME_COLUMNS = ("path", "clip", "name")
"""What the column of names may be called; the first that a table has counts."""
INDEX_NAME = "index.parquet"
"""The table of a folder of npy files that ``maeast embed --format npy`` wrote."""
FORMS = "a table of vectors (.parquet, .npz, .csv, .tsv, or a folder of .parquet or .npy files)"
BLOCK_ROWS = 4096
MAX_WIDTH = 1 << 20


@dataclass(frozen=True)
class VectorRows:
    """Some rows of a table."""

    names: list[str]
    """As `display.as_name` gives them."""
    vectors: np.ndarray
    """(rows, E) float."""
    start_ms: np.ndarray
    """(rows,) float64 beginning of the row's part of its clip; NaN for that of the clip."""
    end_ms: np.ndarray
    """(rows,) float64 end of that part; NaN for that of the clip."""


def is_table(path: Path) -> bool:
    """Whether a path is a table of vectors by its name or, if a folder, by its files; no checkpoint or run is one."""
    if not path.is_dir():
        return path.suffix.lower() in FILE_SUFFIXES
    if any((path / part / CONFIG_NAME).is_file() for part in (".", *RUN_ENCODERS)):
        return False
    return any(next(path.rglob(pattern), None) is not None for pattern in ("*.parquet", "*.npy"))


def read_vector_rows(path: Path) -> Iterator[VectorRows]:
    """Yield the rows of a table in blocks; of a table with several layers, those of the last one.

    Raises:
        ValueError: The table is missing or broken, or its vectors have different lengths.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; expected {FORMS}")
    width = None
    for block in _reader(path)(path):
        vectors = block.vectors
        if vectors.ndim != 2 or not 0 < vectors.shape[1] <= MAX_WIDTH or len(vectors) != len(block.names):
            raise ValueError(f"{path}: expected a vector for each name, got values of shape {vectors.shape}")
        if width not in (None, vectors.shape[1]):
            raise ValueError(f"{path}: vectors of different lengths, {sorted({width or 0, vectors.shape[1]})}")
        width = vectors.shape[1]
        yield block


def _reader(path: Path) -> Any:
    if path.is_dir():
        has_index = (path / INDEX_NAME).is_file()
        return _npy_rows if has_index or next(path.rglob("*.parquet"), None) is None else _parquet_rows
    return {".npz": _npz_rows, ".csv": _csv_rows, ".tsv": _csv_rows}.get(path.suffix.lower(), _parquet_rows)


def _parquet_rows(path: Path) -> Iterator[VectorRows]:
    found = files.find_files(path)
    layers, _ = files.count_rows(found)
    for part in found:
        with files.opened(part) as file:
            schema = file.schema_arrow
            for column, problem in files.OTHER_KINDS.items():
                if column in schema.names:
                    raise ValueError(f"{part}: {problem}")
            name = next((column for column in NAME_COLUMNS if column in schema.names), None)
            if name is None or "vector" not in schema.names:
                raise ValueError(f"{part}: expected columns path and vector, got {', '.join(schema.names[:20])}")
            columns, groups = [name, "vector", "scale", *TIME_COLUMNS], range(file.num_row_groups)
            layer = layers[-1] if len(layers) > 1 else None
            for batch in files.read_batches(part, file, columns, groups, BLOCK_ROWS, layer):
                if batch.num_rows:
                    yield _block(part, batch, name)


def _block(part: Path, batch: "pa.RecordBatch", name: str) -> VectorRows:
    import pyarrow as pa

    column = batch["vector"]
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        try:
            width = len(column[0].as_py() or ())
            column = column.cast(pa.list_(column.type.value_type, width))
        except (pa.ArrowException, TypeError) as error:
            raise ValueError(f"{part}: vectors of different lengths, or without values") from error
        batch = batch.set_column(batch.schema.get_field_index("vector"), "vector", column)
    kind = column.type.value_type if pa.types.is_fixed_size_list(column.type) else pa.null()
    kinds = [kind, batch["scale"].type] if "scale" in batch.schema.names else [kind]
    if not all(pa.types.is_floating(k) or pa.types.is_integer(k) for k in kinds) or batch[name].null_count:
        raise ValueError(f"{part}: expected columns {name} and vector, a text and a list of numbers in each row")
    if not column.type.list_size:
        raise ValueError(f"{part}: vectors without values")
    with np.errstate(over="ignore"):  # an infinite value is left out later
        stored = files.stored_vectors(part, batch, column.type.list_size)
    vectors = stored.astype(np.float32)
    if stored.dtype == np.int8 and "scale" in batch.schema.names:
        vectors *= batch["scale"].to_numpy(zero_copy_only=False).astype(np.float32)[:, None]
    times = {key: files.times_of(part, batch, key) for key in TIME_COLUMNS}
    return VectorRows([str(text) for text in batch[name].to_pylist()], vectors, *_in_ms(times))


def _in_ms(times: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends in ms, from the columns in ms or, where these are missing, from those in seconds."""
    both = ((times[f"{key}_ms"], 1000 * times[key]) for key in ("start", "end"))
    start, end = (np.where(np.isnan(in_ms), in_seconds, in_ms) for in_ms, in_seconds in both)
    return start, end


def _npz_rows(path: Path) -> Iterator[VectorRows]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = next((key for key in NAME_COLUMNS if key in arrays), "path")
            names, vectors = arrays[name], arrays["vector"]
            rows = len(names)
            scale = np.asarray(arrays["scale"] if "scale" in arrays else np.ones(rows), np.float32)
            missing = np.full(rows, np.nan)
            given = {key: np.asarray(arrays[key], np.float64) if key in arrays else missing for key in TIME_COLUMNS}
            layer = arrays["layer"] if "layer" in arrays else np.zeros(rows)
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected an .npz with arrays path and vector ({shortened(error)})") from error
    if names.dtype.kind != "U" or any(value.shape != (rows,) for value in (names, layer, scale, *given.values())):
        raise ValueError(f"{path}: expected arrays path (text) and vector with as many rows, got {names.dtype} {rows}")
    if len(vectors) != rows or vectors.ndim != 2 or vectors.dtype.kind not in "fi":
        raise ValueError(f"{path}: expected {rows} vectors of numbers, got {vectors.dtype} of shape {vectors.shape}")
    start, end = _in_ms(given)
    chosen = np.flatnonzero(layer == layer[-1]) if rows else np.zeros(0, np.int64)
    for first in range(0, len(chosen), BLOCK_ROWS):
        part = chosen[first : first + BLOCK_ROWS]
        with np.errstate(over="ignore"):  # an infinite value is left out later
            block = vectors[part].astype(np.float32) * scale[part, None]
        yield VectorRows([str(text) for text in names[part]], block, start[part], end[part])


def _csv_rows(path: Path) -> Iterator[VectorRows]:
    table = str(path)
    with open_lines(table) as file:
        lines = lines_of(file, table)
        header = read_header(lines, table, "path")
        name = next((column for column in NAME_COLUMNS if header.has(column)), "path")
        try:
            column, times = header.index(name), TimeColumns(header)
        except ValueError as error:
            raise ValueError(f"{table}: {error}; expected columns path and numbers, got {header}") from error
        known = {name, "segment", *TIME_COLUMNS}
        numbers = [i for i, given in enumerate(header.columns) if given.casefold() not in known]
        rows = row_values(lines, header, table, first=1)
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            names, vectors, spans = [], [], []
            for number, values in block:
                where = f"{table}: row {number}"
                names.append(as_name(file_name(from_cell(values[column]))))
                vectors.append(_numbers(values, numbers, header.separator, where))
                spans.append(times.segment(values, where))
            start, end = np.array(spans, np.float64).T  # None becomes NaN
            yield VectorRows(names, np.array(vectors), start, end)


def _numbers(values: Sequence[str], columns: Sequence[int], separator: str, where: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # an infinite value is left out later
            return np.array([parse_number(values[column], separator) for column in columns], np.float32)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _npy_rows(path: Path) -> Iterator[VectorRows]:
    for name, file, start, end in _npy_files(path):
        try:
            array = np.load(path / file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path / file}: not an array of numbers ({shortened(error)})") from error
        if array.dtype.kind not in "fi" or array.ndim not in (1, 2) or not 0 < array.shape[-1] <= MAX_WIDTH:
            found = f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"{path / file}: expected a vector, or one for each layer, got {found}")
        vector = np.array(array if array.ndim == 1 else array[-1], np.float32)
        yield VectorRows([name], vector[None], np.array([start]), np.array([end]))


def _npy_files(path: Path) -> Iterator[tuple[str, str, float, float]]:
    """Yield the name of a clip, its file in the folder, and the times of its part in ms."""
    index = path / INDEX_NAME
    if not index.is_file():
        for file in sorted(path.rglob("*.npy")):
            relative = str(file.relative_to(path))
            yield as_name(relative.removesuffix(".npy")), relative, np.nan, np.nan
        return
    with files.opened(index) as parquet:
        if not {"path", "file"} <= set(parquet.schema_arrow.names):
            raise ValueError(f"{index}: expected columns path and file, as maeast embed --format npy writes them")
        for batch in files.read_batches(
            index, parquet, ["path", "file", "start_ms", "end_ms"], range(parquet.num_row_groups), BLOCK_ROWS
        ):
            starts, ends = (files.times_of(index, batch, key) for key in ("start_ms", "end_ms"))
            rows = zip(batch["path"].to_pylist(), batch["file"].to_pylist(), starts, ends, strict=True)
            for name, file, start, end in rows:
                if not isinstance(name, str) or not isinstance(file, str) or not _is_inside(file):
                    raise ValueError(f"{index}: expected a path and the name of a file in the folder in each row")
                yield name, file, float(start), float(end)


def _is_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts

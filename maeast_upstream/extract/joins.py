"""Joins the parts of a run to one file, piece by piece, so that memory stays bounded."""

import zipfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.data.embeddings import METADATA_KEY, REDUCTION_KEY
from maeast_upstream.data.reduction import principal_components
from maeast_upstream.extract.part_store import PartStore, dictionary_columns
from maeast_upstream.extract.table import EmbeddingSpec, make_schema
from maeast_upstream.extract.vector_columns import open_writer, reduced_tables
from maeast_upstream.progress import say
from maeast_upstream.storage import delimited

if TYPE_CHECKING:
    import pyarrow as pa


def join_parquet(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """Write all rows to one parquet file, one row group at a time."""
    with open_writer(file, schema, dictionary_columns(schema)) as writer:
        for table in store.tables():
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def join_reduced(store: PartStore, schema: "pa.Schema", file: IO[Any], spec: EmbeddingSpec) -> None:
    """Write all rows to one parquet file, their vectors reduced to ``spec.dims`` principal components of all of them.

    The parts are read twice, one row group at a time. The components become metadata of the file.

    Raises:
        ValueError: A reduced value is beyond the range of its type.
    """
    dims = spec.dims or 0
    reduction, share = principal_components((as_array(table, "vector") for table in store.tables()), dims)
    say(f"{dims} principal components hold {share:.1%} of the squared length of the vectors")
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    schema = make_schema(spec, dims, metadata)
    with open_writer(file, schema, dictionary_columns(schema)) as writer:
        for table in reduced_tables(store.tables(), schema, reduction):
            writer.write_table(table)
        writer.add_key_value_metadata({REDUCTION_KEY: reduction.to_text()})


def join_npz(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """Write one array per column to an npz file without pickles, piece by piece, so that memory stays bounded."""
    rows = sum(store.report(number).rows for number in store.numbers())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column in schema.names:
            arrays = lambda column=column: (as_array(table, column) for table in store.tables())  # noqa: E731
            _write_array(archive, column, rows, arrays)
        metadata = (schema.metadata or {}).get(METADATA_KEY.encode(), b"{}").decode()
        _write_array(archive, METADATA_KEY, None, lambda: iter([np.array(metadata)]))


def join_csv(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """Write all rows as CSV with a header; float32 values get the digits that they have."""

    def rows() -> Iterator[list[object]]:
        yield list(schema.names)
        for table in store.tables():
            columns = [as_array(table, name) for name in schema.names]
            # numpy's shortest text of a float32 is not that of the float64 that it is equal to
            yield from ([str(value) if isinstance(value, np.float32) else value for value in row]
                        for row in zip(*columns, strict=True))  # fmt: skip

    file.writelines(line.encode("utf-8", "backslashreplace") for line in delimited.lines(rows()))


def as_array(table: "pa.Table", column: str) -> np.ndarray:
    """Return a column as (rows,) numbers or text, or as (rows, E) vectors."""
    values = table[column].combine_chunks()
    if column == "vector":
        flat: np.ndarray = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(table), -1)
    array: np.ndarray = values.to_numpy(zero_copy_only=False)
    return array.astype(str) if array.dtype == object else array


def _write_array(
    archive: zipfile.ZipFile, name: str, rows: int | None, pieces: Callable[[], Iterator[np.ndarray]]
) -> None:
    """Write a member NAME.npy of ``rows`` rows, or of a single value for None.

    The pieces of text are read twice, first for the longest one.
    """
    first = next(pieces())
    dtype = first.dtype
    if dtype.kind == "U":
        dtype = max((piece.dtype for piece in pieces()), key=lambda dtype: dtype.itemsize)
    shape = () if rows is None else (rows, *first.shape[1:])
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(member, header)
        for piece in pieces():
            member.write(np.ascontiguousarray(piece, dtype=dtype).tobytes())

"""How vectors are stored in a parquet file: types, scales, encodings, and fewer dimensions."""

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from maeast_upstream.data.plain_pages import VECTOR_LEAF
from maeast_upstream.extract.arrow_columns import column

if TYPE_CHECKING:
    import pyarrow as pa

VectorType = Literal["float32", "float16", "int8"]
LARGEST_INT8 = 127
"""The scale is symmetric: -128 is not used."""


def vector_fields(vectors: VectorType, width: int) -> "list[pa.Field]":
    """Return the column ``vector``, a list of fixed size whose values are never missing, and the one of its scale.

    A reader then need not look for missing values, which takes as long as the values themselves.
    """
    import pyarrow as pa

    value = pa.field("element", pa.type_for_alias(vectors), nullable=False)
    scale = [pa.field("scale", pa.float32())] if vectors == "int8" else []
    return [pa.field("vector", pa.list_(value, width)), *scale]


def vector_arrays(rows: np.ndarray, schema: "pa.Schema") -> "dict[str, pa.Array]":
    """Return (n, E) rows as the columns of `vector_fields`, by their names."""
    import pyarrow as pa

    kind = schema.field("vector").type
    if kind.value_type != pa.int8():
        stored = rows.astype(kind.value_type.to_pandas_dtype(), copy=False)
        return {"vector": pa.FixedSizeListArray.from_arrays(column(stored.ravel(), kind.value_type), type=kind)}
    stored, scale = to_int8(rows)
    return {
        "vector": pa.FixedSizeListArray.from_arrays(column(stored.ravel(), kind.value_type), type=kind),
        "scale": column(scale, pa.float32()),
    }


def to_int8(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize rows: (n, E) -> (n, E) int8 and the scale (n,) float32 to multiply each row by, 0 for one of zeros."""
    scale = (np.abs(rows).max(axis=1) / np.float32(LARGEST_INT8)).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(rows / divisor[:, None]).clip(-LARGEST_INT8, LARGEST_INT8).astype(np.int8), scale


def open_writer(file: IO[Any], schema: "pa.Schema", dictionary: list[str]) -> Any:
    """Open a writer of parquet files whose vectors are read quickly.

    Vectors are not compressed, which would save 0 to 2 %. Those of int8 have a dictionary, since parquet has no numbers
    of one byte, and indices into 255 values have.

    Args:
        file: Is written to.
        schema: Of the rows, with or without vectors.
        dictionary: Columns whose values recur.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if "vector" not in schema.names:
        return pq.ParquetWriter(file, schema, use_dictionary=dictionary)
    codecs = {name: "snappy" for name in schema.names if name != "vector"}
    if schema.field("vector").type.value_type == pa.int8():
        dictionary = [*dictionary, VECTOR_LEAF]
    return pq.ParquetWriter(file, schema, use_dictionary=dictionary, compression={**codecs, VECTOR_LEAF: "none"})


def reduced_tables(tables: "Iterator[pa.Table]", schema: "pa.Schema", reduction: Any) -> "Iterator[pa.Table]":
    """Yield the tables with their vectors projected by a `Reduction`, in the columns of ``schema``.

    Raises:
        ValueError: A projected value is beyond the range of its type.
    """
    import pyarrow as pa

    width = len(reduction.components)
    for table in tables:
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = reduction.apply(flat.reshape(len(table), -1)).reshape(-1, width)
        with np.errstate(over="ignore"):
            is_finite = np.isfinite(vectors.astype(np.float16 if is_half(schema) else np.float32)).all()
        if not is_finite:
            raise ValueError("reduced vectors beyond the range of float16; give --vectors float32")
        columns = vector_arrays(vectors, schema)
        arrays = [columns[name] if name in columns else table[name] for name in schema.names]
        yield pa.table(arrays, schema=schema)


def is_half(schema: "pa.Schema") -> bool:
    """Whether the vectors are stored as float16."""
    import pyarrow as pa

    return bool(schema.field("vector").type.value_type == pa.float16())

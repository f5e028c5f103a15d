"""Columns of Arrow from numbers and texts; `pyarrow.array` would load pandas first, which takes half a second."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TEXT_BYTES = np.iinfo(np.int32).max
"""Of all texts of an array, whose offsets have 32 bits."""


def column(values: "Sequence[Any] | np.ndarray", kind: "pa.DataType") -> "pa.Array | pa.ChunkedArray":
    """Return n values, none of which is missing, as an array of a type: numbers, or text."""
    import pyarrow as pa

    if kind == pa.string():
        return _texts(values)
    numbers = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _texts(values: "Sequence[str] | np.ndarray") -> "pa.Array | pa.ChunkedArray":
    import pyarrow as pa

    encoded = [text.encode() for text in values]
    ends = np.cumsum([0, *map(len, encoded)])
    if ends[-1] > MAX_TEXT_BYTES:
        return pa.array(values, pa.string())  # in several chunks
    offsets = pa.py_buffer(ends.astype(np.int32))
    return pa.StringArray.from_buffers(len(encoded), offsets, pa.py_buffer(b"".join(encoded)))

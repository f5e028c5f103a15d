"""Reads vectors from a parquet file whose pages hold them as they are: neither compressed nor in a dictionary.

Libraries read a list of fixed size value by value, because a parquet file tells for each number to which list it
belongs. That takes several times as long as the search for the nearest vectors. Where no value is missing, it is known
without looking, and a page ends with its numbers in a row, which can be used where they lie.

Source: the Apache Parquet format, README ("Data Pages") and Encodings ("PLAIN", "RLE"); headers of pages are in the
compact protocol of Thrift.
"""

from collections.abc import Iterator
from typing import IO, Any

import numpy as np

VECTOR_LEAF = "vector.list.element"
"""Name of the column of numbers that the column ``vector`` is stored as."""
DATA_PAGE, PLAIN = 0, 0
"""Thrift's numbers of the type of a page and of an encoding."""
HEADER_BYTES = 4096
"""Longest header of a page; it holds some numbers, and the least and the largest value."""
MAX_PAGE_BYTES = 64 << 20
MAX_DEPTH = 4
"""Structures in structures of a header."""
TYPES: dict[str, np.dtype[Any]] = {"FLOAT": np.dtype("<f4"), "FIXED_LEN_BYTE_ARRAY": np.dtype("<f2")}


class UnusualPageError(Exception):
    """A page has another form than expected here; a library may be able to read it."""


def has_plain_vectors(file: Any, group: int) -> bool:
    """Whether the vectors of a row group of a `pyarrow.parquet.ParquetFile` are as `read_pages` expects them."""
    import pyarrow as pa

    found = [i for i in range(len(file.schema)) if file.schema.column(i).path == VECTOR_LEAF]
    if len(found) != 1:
        return False
    schema, chunk = file.schema.column(found[0]), file.metadata.row_group(group).column(found[0])
    vector = file.schema_arrow.field("vector").type
    is_float = vector.value_type in (pa.float16(), pa.float32()) and chunk.physical_type in TYPES
    is_plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
    counted = chunk.statistics is not None and chunk.statistics.null_count == 0
    levels = schema.max_repetition_level == 1 and schema.max_definition_level in (1, 2, 3)
    all_there = chunk.num_values == file.metadata.row_group(group).num_rows * vector.list_size
    return bool(is_float and is_plain and counted and levels and all_there)


def read_pages(stream: IO[bytes], file: Any, group: int) -> Iterator[np.ndarray]:
    """Yield the vectors of a row group, some at a time.

    Args:
        stream: The file, opened for reading bytes.
        file: The same as `pyarrow.parquet.ParquetFile`, of which `has_plain_vectors` is true for the row group.
        group: Number of the row group.

    Yields:
        (n, width) float32 or float16 that can be written to.

    Raises:
        UnusualPageError: A page has another form, or is broken.
        OSError: The file cannot be read.
    """
    number = next(i for i in range(len(file.schema)) if file.schema.column(i).path == VECTOR_LEAF)
    chunk, levels = file.metadata.row_group(group).column(number), file.schema.column(number).max_definition_level
    width, kind = file.schema_arrow.field("vector").type.list_size, TYPES[chunk.physical_type]
    position, left = chunk.data_page_offset, chunk.num_values
    rest = np.zeros(0, kind)
    while left:
        stream.seek(position)
        size, header_bytes, count = _page(stream.read(HEADER_BYTES))
        page = bytearray(size)
        stream.seek(position + header_bytes)
        if not 0 < count <= left or stream.readinto(page) != size:  # type: ignore[attr-defined]
            raise UnusualPageError("a page that ends early")
        values = _values(page, count, kind, levels)
        values = np.concatenate([rest, values]) if len(rest) else values
        rows = len(values) // width
        if rows:
            yield values[: rows * width].reshape(rows, width)
        rest = values[rows * width :]
        position, left = position + header_bytes + size, left - count
    if len(rest):
        raise UnusualPageError("a vector that ends early")


def _values(page: bytearray, count: int, kind: np.dtype[Any], levels: int) -> np.ndarray:
    """Return the numbers at the end of a page, after checking that none is missing."""
    start = len(page) - count * kind.itemsize
    definitions = 4 + int.from_bytes(page[:4], "little")
    if not 4 <= definitions <= start - 4:
        raise UnusualPageError("lists of another form")
    length = int.from_bytes(page[definitions : definitions + 4], "little")
    run, position = _varint(bytes(page[definitions + 4 : definitions + 14]), 0)
    if definitions + 4 + length != start or run != count << 1 or page[definitions + 4 + position] != levels:
        raise UnusualPageError("missing values")
    return np.frombuffer(page, kind, count, start)


def _page(data: bytes) -> tuple[int, int, int]:
    """Read the header of a page: the bytes of the page, those of the header, and the number of its values."""
    try:
        header, end = _struct(data, 0)
        about = header[5]
        if header[1] != DATA_PAGE or about[2] != PLAIN or header[2] != header[3]:
            raise UnusualPageError("another kind of page")
        size, count = int(header[2]), int(about[1])
    except (KeyError, IndexError, TypeError) as error:
        raise UnusualPageError("no header of a page") from error
    if not 0 < size <= MAX_PAGE_BYTES:
        raise UnusualPageError("a page of unusual size")
    return size, end, count


def _struct(data: bytes, position: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Read a structure of Thrift's compact protocol: its numbers and structures by the numbers of their fields."""
    if depth > MAX_DEPTH:
        raise UnusualPageError("a header of many levels")
    fields: dict[int, Any] = {}
    field = 0
    while data[position]:
        step, kind = data[position] >> 4, data[position] & 15
        position += 1
        if not step:
            raise UnusualPageError("a header of another form")
        field += step
        if kind in (1, 2):  # true and false
            continue
        if kind in (4, 5, 6):  # whole numbers, the sign in the last bit
            value, position = _varint(data, position)
            fields[field] = (value >> 1) ^ -(value & 1)
        elif kind == 8:  # bytes
            length, position = _varint(data, position)
            position += length
        elif kind == 12:
            fields[field], position = _struct(data, position, depth + 1)
        else:
            raise UnusualPageError("a header of another form")
    return fields, position + 1


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise UnusualPageError("a number of many bytes")

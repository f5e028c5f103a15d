"""The vectors of a table, read from its pages as they are, against what pyarrow reads."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maeast_upstream.data import plain_pages, scanning
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.extract.part_store import dictionary_columns
from maeast_upstream.extract.table import EmbeddingSpec, make_schema
from maeast_upstream.extract.vector_columns import open_writer, vector_arrays

ROWS, WIDTH = 700, 37
RANDOM = np.random.default_rng(0)
VECTORS = RANDOM.normal(size=(ROWS, WIDTH)).astype(np.float32)


def write(path, kind="float16", rows=ROWS, group=300):
    """A table as ``maeast embed`` writes it."""
    schema = make_schema(EmbeddingSpec(vectors=kind), WIDTH)
    with path.open("wb") as file, open_writer(file, schema, dictionary_columns(schema)) as writer:
        for first in range(0, rows, group):
            part = VECTORS[first : min(rows, first + group)]
            columns = {"path": ["a.wav"], "segment": [0], "start_ms": [0.0], "end_ms": [1.0], "layer": ["1"]}
            columns = {name: values * len(part) for name, values in columns.items()} | vector_arrays(part, schema)
            writer.write_table(pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema))
    return path


def write_foreign(path, vectors=None, **options):
    """A table of another program, which says of no value that it is never missing."""
    values = vectors if vectors is not None else VECTORS.ravel()
    column = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), WIDTH)
    pq.write_table(pa.table({"path": ["a.wav"] * ROWS, "vector": column}), path, **options)
    return path


def scanned(table) -> np.ndarray:
    found = {}
    EmbeddingTable(table).scan(lambda first, vectors: found.__setitem__(first, vectors.copy()))
    firsts = sorted(found)
    assert firsts[0] == 0
    assert all(first + len(found[first]) == after for first, after in itertools.pairwise(firsts))
    return np.concatenate([found[first] for first in firsts])


@pytest.fixture
def from_pages(monkeypatch) -> list[int]:
    """Which row groups were read from their pages to the end."""
    read, groups = plain_pages.read_pages, []

    def counted(stream, file, group):
        yield from read(stream, file, group)
        groups.append(group)

    monkeypatch.setattr(scanning, "read_pages", counted)
    return groups


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_vectors_of_embed_are_read_from_their_pages(tmp_path, from_pages, kind):
    found = scanned(write(tmp_path / "t.parquet", kind))
    np.testing.assert_array_equal(found, VECTORS.astype(kind))
    assert sorted(from_pages) == [0, 1, 2]


@pytest.mark.parametrize("options", [{"data_page_size": 100}, {"data_page_size": 1000, "write_batch_size": 10}, {}])
def test_vectors_that_lie_in_two_pages_are_whole(tmp_path, from_pages, options):
    table = write_foreign(tmp_path / "t.parquet", compression="none", use_dictionary=False, **options)
    np.testing.assert_array_equal(scanned(table), VECTORS)
    assert from_pages == [0]


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "none"}, {"use_dictionary": False}, {"compression": "none", "data_page_version": "2.0"},
     {"compression": "none", "use_dictionary": False, "write_statistics": False},
     {"compression": "none", "use_dictionary": False, "column_encoding": {"vector.list.element": "BYTE_STREAM_SPLIT"}}],
    ids=str,
)  # fmt: skip
def test_other_forms_are_read_by_the_library(tmp_path, from_pages, options):
    np.testing.assert_array_equal(scanned(write_foreign(tmp_path / "t.parquet", **options)), VECTORS)
    assert from_pages == []


def test_a_missing_value_is_an_error(tmp_path):
    values = VECTORS.ravel().tolist()
    values[5] = None
    table = write_foreign(tmp_path / "t.parquet", values, compression="none", use_dictionary=False)
    with pytest.raises(ValueError, match="missing values"):
        scanned(table)


def test_rows_come_once_if_a_page_of_another_form_follows(tmp_path, monkeypatch):
    table = write_foreign(tmp_path / "t.parquet", compression="none", use_dictionary=False, data_page_size=1000)
    values = plain_pages._values
    pages = []

    def failing(*arguments):
        pages.append(arguments)
        if len(pages) == 3:
            raise plain_pages.UnusualPageError("another form")
        return values(*arguments)

    monkeypatch.setattr(plain_pages, "_values", failing)
    np.testing.assert_array_equal(scanned(table), VECTORS)
    assert len(pages) == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_broken_file_is_an_error_or_gives_numbers_of_its_shape(tmp_path_factory, data):
    table = write(tmp_path_factory.mktemp("broken") / "t.parquet", rows=40)
    content = bytearray(table.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    table.write_bytes(content)
    try:
        found = scanned(table)
    except (ValueError, AssertionError):
        return
    assert found.shape[1] == WIDTH


@given(st.binary(max_size=60))
def test_a_header_of_any_bytes_is_read_or_refused(data):
    try:
        size, end, count = plain_pages._page(data)
    except plain_pages.UnusualPageError:
        return
    assert 0 < size <= plain_pages.MAX_PAGE_BYTES
    assert 0 < end <= len(data)
    assert isinstance(count, int)

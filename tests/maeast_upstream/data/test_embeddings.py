import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from map_tables import write_table

from maeast_upstream import cli
from maeast_upstream.data.embeddings import EmbeddingTable, read_embeddings

DATA = Path(__file__).parents[2] / "data"
VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)
NAMES = [f"{letter}.wav" for letter in "abcdef"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_table_with_segments_is_read(tmp_path, dtype):
    columns = {"segment": [0, 1, 2] * 2, "start_ms": [0.0, 10.0, 20.0] * 2, "end_ms": [10.0, 20.0, 25.0] * 2}
    found = read_embeddings(write_table(tmp_path / "e.parquet", NAMES, VECTORS, dtype, layer=["12"] * 6, **columns))
    assert found.paths == NAMES
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, VECTORS)
    np.testing.assert_array_equal(found.start_ms, columns["start_ms"])
    np.testing.assert_array_equal(found.end_ms, columns["end_ms"])
    assert (found.layer, found.layers) == ("12", ("12",))


def test_a_table_of_paths_and_vectors_holds_whole_files(tmp_path):
    found = read_embeddings(write_table(tmp_path / "e.parquet", NAMES, VECTORS))
    assert found.start_ms.tolist() == [0] * 6
    assert np.isnan(found.end_ms).all()
    assert found.layer is None


def test_a_folder_of_parts_is_one_table_and_unfinished_parts_are_none_of_it(tmp_path):
    write_table(tmp_path / "part-00001.parquet", NAMES[4:], VECTORS[4:])
    write_table(tmp_path / "part-00000.parquet", NAMES[:4], VECTORS[:4])
    write_table(tmp_path / ".part-00002.parquet.7.part.parquet", NAMES, VECTORS)
    (tmp_path / "errors.tsv").write_text("path\treason\n")
    found = read_embeddings(tmp_path)
    assert found.paths == NAMES
    np.testing.assert_array_equal(found.vectors, VECTORS)


def test_the_last_layer_is_taken_unless_another_is_named(tmp_path):
    table = write_table(tmp_path / "e.parquet", ["a.wav"] * 2 + ["b.wav"] * 4, VECTORS, layer=["9", "10"] * 3)
    assert read_embeddings(table).layers == ("9", "10")
    np.testing.assert_array_equal(read_embeddings(table).vectors, VECTORS[1::2])
    np.testing.assert_array_equal(read_embeddings(table, "9").vectors, VECTORS[::2])
    with pytest.raises(ValueError, match="no layer '8'; the table has 9, 10"):
        read_embeddings(table, "8")
    with pytest.raises(ValueError, match="no layer '8'; the table has no column layer"):
        read_embeddings(write_table(tmp_path / "e.parquet", NAMES, VECTORS), "8")


def test_a_table_of_time_steps_is_refused(tmp_path):
    table = write_table(tmp_path / "e.parquet", NAMES, VECTORS, time_ms=[7.5] * 6)
    with pytest.raises(ValueError, match="one row per time step"):
        read_embeddings(table)


def test_what_is_no_table_of_embeddings_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(ValueError, match=r"x\.parquet: no such file"):
        read_embeddings(path)
    path.write_text("no parquet")
    with pytest.raises(ValueError, match=r"x\.parquet: not a table of embeddings"):
        read_embeddings(path)
    for columns in ({"path": ["a"], "vector": [1.0]}, {"path": ["a"]}):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(ValueError, match="expected columns path and vector"):
            read_embeddings(path)
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_embeddings(write_table(path, "abc", np.full((3, 4), np.nan)))
    path.unlink()
    with pytest.raises(ValueError, match=r"a folder without \.parquet files"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"start_ms": [0.0] * 5 + [np.inf]}, "start_ms is not from 0 to 1e\\+12"),
        ({"end_ms": [-1.0] * 6}, "end_ms is not from 0"),
        ({"end_ms": [1e306] * 6}, "end_ms is not from 0"),
        ({"start_ms": ["1"] * 6}, "start_ms holds no numbers, but string"),
        ({"path": [1] * 6}, "expected columns path and vector"),
        ({"vector": pa.array([[]] * 6, pa.list_(pa.float32(), 0))}, "not a table of embeddings"),
    ],
)
def test_columns_of_other_kinds_are_one_line(tmp_path, columns, reason):
    values = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.astype(np.float32).ravel()), VECTORS.shape[1])
    table = {"path": list(map(str, NAMES)), "vector": values, **columns}
    pq.write_table(pa.table(table), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=reason) as caught:
        read_embeddings(tmp_path / "e.parquet")
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="a pipe or device; expected a file"):
        read_embeddings(tmp_path / "e.parquet")


def test_a_part_without_the_layer_of_the_others_is_refused(tmp_path):
    write_table(tmp_path / "a.parquet", NAMES, VECTORS, layer=["12"] * 6)
    write_table(tmp_path / "b.parquet", NAMES, VECTORS)
    with pytest.raises(ValueError, match=r"b\.parquet: no column layer, which other parts have"):
        read_embeddings(tmp_path)


def test_a_folder_of_npy_files_is_refused_with_what_to_do(tmp_path):
    clips = sorted((DATA / "audio").glob("*.opus"))[:3]
    assert cli.main(["embed", *map(str, clips), "-o", str(tmp_path / "out"), "--format", "npy"]) == 0
    with pytest.raises(ValueError, match=r"npy files; .*without --format npy"):
        read_embeddings(tmp_path / "out")


def test_parts_with_vectors_of_different_lengths_are_refused(tmp_path):
    write_table(tmp_path / "a.parquet", NAMES, VECTORS)
    write_table(tmp_path / "b.parquet", NAMES, VECTORS[:, :2])
    with pytest.raises(ValueError, match=r"different lengths, \[2, 4\]"):
        read_embeddings(tmp_path)


def test_blocks_are_the_rows_in_their_order(tmp_path):
    write_table(tmp_path / "part-0.parquet", NAMES[:4], VECTORS[:4], layer=["1", "2"] * 2, segment=[0, 0, 1, 1])
    write_table(tmp_path / "part-1.parquet", NAMES[4:], VECTORS[4:], layer=["1", "2"], segment=[2, 2])
    table = EmbeddingTable(tmp_path, "2")
    assert (table.rows, table.dimensions, table.layers, table.origin) == (3, 4, ("1", "2"), None)
    blocks = list(table.blocks(rows=1))
    assert [block.paths for block in blocks] == [["b.wav"], ["d.wav"], ["f.wav"]]
    assert [block.segments.tolist() for block in blocks] == [[0], [1], [2]]
    np.testing.assert_array_equal(np.concatenate([block.vectors for block in blocks]), VECTORS[1::2])


def scanned(table):
    found = {}
    table.scan(lambda first, vectors: found.update({first + row: vector for row, vector in enumerate(vectors)}))
    return np.stack([found[row] for row in range(len(found))])


def layered_parts(folder):
    write_table(folder / "part-0.parquet", NAMES[:4], VECTORS[:4], np.float16, layer=["1", "2"] * 2)
    write_table(folder / "part-1.parquet", NAMES[4:], VECTORS[4:], np.float16, layer=["1", "2"])
    return EmbeddingTable(folder)


def test_a_scan_passes_each_row_of_the_layer_as_it_is_stored(tmp_path):
    vectors = scanned(layered_parts(tmp_path))
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, VECTORS[1::2])


def test_a_scan_ends_with_the_error_of_its_function(tmp_path):
    with pytest.raises(ZeroDivisionError):
        layered_parts(tmp_path).scan(lambda first, vectors: 1 / 0)


def test_rows_are_taken_in_the_order_that_is_asked_for(tmp_path):
    table = layered_parts(tmp_path)
    found = table.take([2, 0, 2])
    assert found.paths == ["f.wav", "b.wav", "f.wav"]
    np.testing.assert_array_equal(found.vectors, VECTORS[[5, 1, 5]])
    everything = list(range(table.rows))[::-1]
    np.testing.assert_array_equal(table.take(everything).vectors, table.take(sorted(everything)).vectors[::-1])
    assert table.take([]).paths == []


def test_rows_are_found_by_the_end_of_their_path(tmp_path):
    assert [(row, found.paths) for row, found in layered_parts(tmp_path).named("d.wav")] == [(1, ["d.wav"])]
    in_memory = read_embeddings(tmp_path)
    assert [(row, found.paths) for row, found in in_memory.named("d.wav")] == [(1, ["d.wav"])]
    np.testing.assert_array_equal(scanned(in_memory), VECTORS[1::2])


def int8_table(path, scales, **columns):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(np.int8([127, -127, 64, 0]), len(scales))), 4)
    pq.write_table(pa.table({"path": NAMES[: len(scales)], "vector": values, "scale": scales, **columns}), path)
    return path


def test_vectors_of_int8_are_multiplied_by_the_scale_of_their_row(tmp_path):
    found = read_embeddings(int8_table(tmp_path / "e.parquet", pa.array([1.0, 0.5, 0.0], pa.float32())))
    np.testing.assert_array_equal(found.vectors, np.outer([1, 0.5, 0], [127, -127, 64, 0]).astype(np.float32))


@pytest.mark.parametrize("scales", [[1.0, None], [1.0, np.nan], [1.0, np.inf]])
def test_a_scale_that_is_none_is_one_line(tmp_path, scales):
    with pytest.raises(ValueError, match="NaN or infinite values"):
        read_embeddings(int8_table(tmp_path / "e.parquet", pa.array(scales, pa.float32())))


def test_vectors_of_int8_without_scale_are_no_embeddings(tmp_path):
    with pytest.raises(ValueError, match="not a table of embeddings"):
        EmbeddingTable(write_table(tmp_path / "e.parquet", NAMES, VECTORS, np.int8))


def test_the_digest_is_that_of_the_content(tmp_path):
    first, copy = (write_table(tmp_path / f"{name}.parquet", NAMES, VECTORS) for name in "ab")
    other = write_table(tmp_path / "c.parquet", NAMES, VECTORS + np.eye(6, 4, dtype=np.float32))
    assert EmbeddingTable(first).digest == EmbeddingTable(copy).digest != EmbeddingTable(other).digest


@pytest.mark.parametrize("column", ["path", "layer"])
def test_names_that_are_no_text_are_refused(tmp_path, column):
    names = [None, pa.py_buffer(np.int32([0, 2, 4]).tobytes()), pa.py_buffer(b"\xff\xfeab")]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0, 0.0, 1.0]), 2)
    columns = {"path": ["a", "b"], "vector": vectors, column: pa.Array.from_buffers(pa.string(), 2, names)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="not a table of embeddings"):
        read_embeddings(tmp_path / "t.parquet")


def test_metadata_without_end_tell_nothing(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0, 0.0, 1.0]), 2)
    table = pa.table({"path": ["a", "b"], "vector": vectors}, metadata={"maeast": "[" * 200_000})
    pq.write_table(table, tmp_path / "t.parquet")
    opened = EmbeddingTable(tmp_path / "t.parquet")
    assert (opened.rows, opened.origin, opened.root) == (2, None, "")

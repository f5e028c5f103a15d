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

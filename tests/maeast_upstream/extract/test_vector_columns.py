from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maeast_upstream import cli
from maeast_upstream.data.embeddings import EmbeddingTable, read_embeddings
from maeast_upstream.data.reduction import principal_components
from maeast_upstream.extract.vector_columns import (
    open_writer,
    reduced_tables,
    to_int8,
    vector_arrays,
    vector_fields,
)

CLIPS = sorted((Path(__file__).parents[2] / "data" / "audio").glob("kick*.opus"))[:6]
ROWS = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)


def written(path, vectors, rows=ROWS):
    schema = pa.schema([("path", pa.string()), *vector_fields(vectors, rows.shape[1])])
    columns = {"path": pa.array([f"{row}.wav" for row in range(len(rows))]), **vector_arrays(rows, schema)}
    with open_writer(path, schema, ["path"]) as writer:
        writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema))
    return path


@pytest.mark.parametrize(("vectors", "error"), [("float32", 0), ("float16", 2e-3), ("int8", 2e-2)])
def test_stored_vectors_come_back(tmp_path, vectors, error):
    path = written(tmp_path / "t.parquet", vectors)
    found = read_embeddings(path).vectors
    np.testing.assert_allclose(found, ROWS, atol=error)
    numbers = pq.read_metadata(path).row_group(0).column(1)
    assert (numbers.path_in_schema, numbers.compression) == ("vector.list.element", "UNCOMPRESSED")


def test_int8_takes_a_byte_per_value(tmp_path):
    rows = np.random.default_rng(0).normal(size=(400, 256)).astype(np.float32)
    sizes = {kind: written(tmp_path / kind, kind, rows).stat().st_size for kind in ("float32", "int8")}
    assert sizes["float32"] / sizes["int8"] > 3.7


def test_a_scale_is_that_of_the_largest_value_of_its_row():
    rows = np.float32([[1, -2, 0.5], [0, 0, 0], [1e-30, 0, 0]])
    stored, scale = to_int8(rows)
    np.testing.assert_allclose(stored * scale[:, None], rows, atol=float(scale.max()) / 2)
    assert stored.tolist()[0][1] == -127
    assert scale[1] == 0


def test_vectors_that_are_too_large_for_float16_after_reduction_are_refused():
    schema = pa.schema(vector_fields("float16", 1))
    rows = np.full((2, 16), 40_000, np.float32)
    tables = iter([pa.table(vector_arrays(rows, pa.schema(vector_fields("float32", 16))))])
    with pytest.raises(ValueError, match="beyond the range of float16"):
        list(reduced_tables(tables, schema, principal_components([rows], 1)[0]))


@pytest.mark.slow
def test_embed_reduces_the_table_and_says_how(tmp_path, capsys):
    full, small = tmp_path / "full.parquet", tmp_path / "small.parquet"
    command = ["embed", *map(str, CLIPS), "--engine", "torch", "-o"]
    assert cli.main([*command, str(full)]) == 0
    assert cli.main([*command, str(small), "--dims", "6", "--vectors", "int8"]) == 0
    assert "hold 100.0%" in capsys.readouterr().err
    vectors = read_embeddings(full).vectors
    table, restored = EmbeddingTable(small), EmbeddingTable(small, full=True)
    assert (table.dimensions, restored.dimensions, table.rows) == (6, vectors.shape[1], 6)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(next(restored.blocks()).vectors / lengths, vectors / lengths, atol=2e-2)
    assert cli.main([*command, str(small), "--dims", "6", "--vectors", "int8"]) == 0
    assert "complete already" in capsys.readouterr().out
    assert cli.run(cli.main, [*command, str(small), "--dims", "5", "--vectors", "int8"]) == 1
    assert "dims" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-o", "OUT", "--dims", "4"], "--dims goes with one file"),
        (["-o", "OUT.npz", "--dims", "4"], "--dims goes with one file"),
        (["-o", "OUT", "--format", "npy", "--vectors", "int8"], "int8 goes with parquet and npz"),
        (["-o", "OUT.parquet", "--dims", "0"], "at least 1"),
        (["-o", "OUT.parquet", "--dims", "99999"], "at most 3072"),
        (["-o", "OUT.parquet", "--dims", "4", "--kind", "frames"], "kind scene"),
        (["-o", "OUT.parquet", "--dims", "4", "--layer", "1,2"], "a single layer"),
    ],
)
def test_outputs_that_cannot_hold_such_vectors_are_refused(tmp_path, monkeypatch, capsys, options, reason):
    monkeypatch.chdir(tmp_path)
    assert cli.run(cli.main, ["embed", str(CLIPS[0]), *options]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from map_tables import write_table

from maeast_upstream import cli
from maeast_upstream.data.embeddings import EmbeddingTable

VECTORS = np.concatenate([np.eye(4)[[0] * 8], np.eye(4)[[1] * 6]]) + 0.01 * np.random.default_rng(0).random((14, 4))
NAMES = [f"{number}.wav" for number in range(14)]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = {"segment": np.arange(14), "start_ms": np.arange(14.0), "end_ms": [None] * 7 + [9.5] * 7}
    path = write_table(Path("t.parquet"), NAMES, VECTORS, np.float16, **times)
    stored = pq.read_table(path)
    pq.write_table(stored.replace_schema_metadata({"maeast": '{"settings": {}}'}), path)
    return path


def test_cluster_adds_two_columns_to_a_copy(table, capsys):
    assert cli.main(["cluster", "t.parquet", "-o", "c.parquet", "--min-size", "3"]) == 0
    printed = capsys.readouterr().out
    assert "14 rows: 2 clusters" in printed
    before, after = pq.read_table(table), pq.read_table("c.parquet")
    assert after.select(before.column_names).equals(before)
    assert after.schema.metadata[b"maeast"] == b'{"settings": {}}'
    assert after.schema.field("cluster").type == pa.int64()
    assert after.schema.field("representative").type == pa.bool_()
    cluster = np.array(after["cluster"])
    assert set(cluster[:8]) <= {-1, 0}
    assert set(cluster[8:]) <= {-1, 1}
    for row in np.flatnonzero(after["representative"]):
        assert f"{np.bincount(cluster[cluster >= 0])[cluster[row]]} rows  {row}.wav" in printed
    assert EmbeddingTable("c.parquet").numbers("cluster").tolist() == cluster.tolist()


def test_clusters_are_replaced_when_a_copy_is_clustered(table):
    assert cli.main(["cluster", "t.parquet", "-o", "c.parquet", "--clusters", "2"]) == 0
    assert cli.main(["cluster", "c.parquet", "-o", "d.parquet", "--clusters", "3"]) == 0
    assert pq.read_table("d.parquet").column_names == pq.read_table("c.parquet").column_names
    assert set(pq.read_table("d.parquet")["cluster"].to_pylist()) == {0, 1, 2}


def test_csv_has_no_vectors(table):
    assert cli.main(["cluster", "t.parquet", "-o", "c.csv", "--clusters", "2"]) == 0
    with Path("c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "segment", "start_ms", "end_ms", "cluster", "representative"]
    assert [row["path"] for row in rows] == NAMES
    assert [row["cluster"] for row in rows] == ["0"] * 8 + ["1"] * 6
    assert (rows[0]["end_ms"], rows[13]["end_ms"]) == ("", "9.5")
    assert sum(row["representative"] == "True" for row in rows) == 2


def test_parts_and_layers_become_one_file_of_one_layer(table, capsys, tmp_path):
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate((slice(0, 5), slice(5, 14))):
        layers = ["1", "2"] * len(NAMES[rows])
        write_table(
            tmp_path / "parts" / f"{number}.parquet",
            np.repeat(NAMES[rows], 2),
            np.repeat(VECTORS[rows], 2, axis=0),
            layer=layers,
        )
    assert cli.main(["cluster", "parts", "-o", "c.parquet", "--clusters", "2", "--layer", "1"]) == 0
    assert "layer" not in capsys.readouterr().out
    written = pq.read_table("c.parquet")
    assert written["path"].to_pylist() == NAMES
    assert set(written["layer"].to_pylist()) == {"1"}
    assert written["cluster"].to_pylist() == [0] * 8 + [1] * 6
    assert cli.main(["cluster", "parts", "-o", "c.parquet", "--clusters", "2"]) == 0
    assert "layer 2 of 1, 2; --layer chooses another" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "t.parquet"], "an input"),
        (["-o", "c.txt"], "must end in .parquet or .csv"),
        (["-o", "gone/c.parquet"], "no such folder"),
        (["-o", "c.parquet", "--clusters", "15"], "15 clusters of 14 rows"),
        (["-o", "c.parquet", "--method", "kmeans"], "needs --clusters"),
        (["-o", "c.parquet", "--method", "hdbscan", "--clusters", "2"], "goes with --method kmeans"),
        (["-o", "c.parquet", "--clusters", "2", "--min-size", "2"], "goes with --method hdbscan"),
        (["-o", "c.parquet", "--min-size", "1"], "expected from 2"),
        (["-o", "c.parquet", "--layer", "3"], "no layer '3'"),
    ],
)
def test_cluster_refuses_in_one_line_and_writes_nothing(table, capsys, options, message):
    before = table.read_bytes()
    assert cli.main(["cluster", "t.parquet", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["t.parquet"]
    assert table.read_bytes() == before


def test_cluster_refuses_other_tables(table, capsys, tmp_path):
    steps = write_table(tmp_path / "steps.parquet", "ab", VECTORS[:2], time_ms=[0.0, 40.0])
    broken = write_table(tmp_path / "nan.parquet", "abcdef", VECTORS[:6] * np.nan)
    lone = write_table(tmp_path / "lone.parquet", "a", VECTORS[:1])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), other)
    refused = {steps: "time step", broken: "NaN", lone: "at least 2", other: "columns path and vector"}
    for path, message in refused.items():
        assert cli.main(["cluster", str(path), "-o", "c.parquet"]) == 1
        assert message in capsys.readouterr().err
    assert not Path("c.parquet").exists()

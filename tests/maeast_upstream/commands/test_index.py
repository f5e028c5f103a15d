import json

import numpy as np
import pytest
from map_tables import write_table

from maeast_upstream import cli
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.similarity import index, search

pytest.importorskip("usearch")
ROWS = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "t.parquet", [f"{row}.wav" for row in range(len(ROWS))], ROWS)


@pytest.fixture
def built(table, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "SHARD_BYTES", 130 * 2 * 32)
    index.build_index(EmbeddingTable(table), tmp_path / "t.usearch")
    return tmp_path / "t.usearch"


@pytest.mark.slow
def test_the_command_makes_an_index_and_prints_its_recall(table, tmp_path, capsys):
    out = tmp_path / "t.usearch"
    assert cli.main(["index", str(table), "-o", str(out)]) == 0
    assert "100.0% of the 11 nearest rows" in capsys.readouterr().out
    assert cli.run(cli.main, ["index", str(table), "-o", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.parquet", "t.usearch"]


@pytest.mark.slow
def test_a_search_with_an_index_of_several_shards_is_the_exact_one(table, built):
    assert len(index.read_header(built)[0].shards) == 3
    found, exact = search(table, ROWS[:4], 5, index=built), search(table, ROWS[:4], 5)
    assert [(hit.query, hit.rank, hit.path) for hit in found] == [(hit.query, hit.rank, hit.path) for hit in exact]
    np.testing.assert_allclose([hit.similarity for hit in found], [hit.similarity for hit in exact], atol=1e-6)


def refused(table, path, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        search(table, ROWS[0], 3, index=path)
    assert "\n" not in str(caught.value)


def test_an_index_of_another_table_is_refused(table, built, tmp_path):
    other = write_table(tmp_path / "o.parquet", [f"{row}.wav" for row in range(len(ROWS))], ROWS[::-1])
    refused(other, built, "another table")


def test_files_that_are_no_index_are_refused(table, tmp_path):
    path = tmp_path / "x.usearch"
    refused(table, path, "no such file")
    for content in (b"", b"usearch", table.read_bytes(), index.MAGIC, index.MAGIC + b"\xff" * 8):
        path.write_bytes(content)
        refused(table, path, r"not an index|broken index")


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_an_index_that_was_cut_short_is_refused(table, built, cut):
    content = built.read_bytes()
    built.write_bytes(content[: int(cut * len(content))])
    refused(table, built, "broken index")


@pytest.mark.parametrize("change", [{"rows": 10**15}, {"dimensions": -1}, {"shards": []}, {"digest": 7}, {"more": 1}])
def test_a_header_of_other_values_is_refused(table, built, change):
    content = built.read_bytes()
    start = len(index.MAGIC) + 8
    length = int.from_bytes(content[start - 8 : start], "little")
    header = json.dumps(json.loads(content[start : start + length]) | change).encode()
    padding = bytes(-(start + len(header)) % 64)
    body = content[start + length + -(start + length) % 64 :]
    built.write_bytes(index.MAGIC + len(header).to_bytes(8, "little") + header + padding + body)
    refused(table, built, "broken index")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_graph_of_random_bytes_does_not_end_this_process(table, built, seed):
    header, begin = index.read_header(built)
    content = bytearray(built.read_bytes())
    shard = header.shards[0]
    graph = begin + shard.offset + 8 + 2 * shard.rows * header.dimensions + 64
    end = begin + shard.offset + shard.size
    content[graph:end] = np.random.default_rng(seed).bytes(end - graph)
    built.write_bytes(content)
    try:
        hits = search(table, ROWS[0], 3, index=built)
    except ValueError as error:
        assert "broken index" in str(error)
    else:
        assert len(hits) == 3


def test_the_memory_of_a_search_has_a_bound(table, built, monkeypatch):
    monkeypatch.setattr(index, "READER_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="broken index"):  # 160 MB for the numbers of the rows
        index.candidates(built, EmbeddingTable(table), ROWS[:1], count=20_000_000)

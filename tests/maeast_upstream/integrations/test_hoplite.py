"""Tables to Perch-Hoplite databases and back; needs perch-hoplite, which `make test-hoplite` installs."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maeast_upstream.cli import main
from maeast_upstream.data.embeddings import EmbeddingTable, read_embeddings

AUDIO = Path(__file__).parents[2] / "data" / "audio"


def run(*argv):
    return main(["hoplite", *map(str, argv)])


def write_table(path, vectors=None, **columns):
    """Three windows of one recording, and one of another."""
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32) if vectors is None else vectors
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    table = {
        "path": ["site/a.wav"] * 3 + ["b \u00e9.wav"],
        "segment": [0, 0, 7, 0],
        "start_ms": [0.0, 4500.0, 9000.0, 0.0],
        "end_ms": [5000.0, 9500.0, 12345.6, 800.0],
    }
    pq.write_table(pa.table({**table, **columns, "vector": flat}), path)
    return vectors


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "perch_hoplite.db", None)
    write_table(tmp_path / "t.parquet")
    assert run(tmp_path / "t.parquet", "-o", tmp_path / "db") == 1
    error = capsys.readouterr().err
    assert "[hoplite]" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "db").exists()


@pytest.fixture
def library():
    return pytest.importorskip("perch_hoplite.db.sqlite_usearch_impl")


@pytest.fixture
def database(library, tmp_path, capsys):
    """A database with labels, and the table that it was made of."""
    write_table(tmp_path / "t.parquet")
    lines = ["path,label,start_ms,end_ms", "site/a.wav,owl,100,2000", "site/a.wav,fox,,", "c.wav,owl,0,10"]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    options = ["--labels", tmp_path / "labels.csv", "--audio", tmp_path, "--dataset", "wood"]
    assert run(tmp_path / "t.parquet", "-o", tmp_path / "db", *options) == 0
    said = capsys.readouterr().out
    assert "2 labels" in said
    assert "left out: 1" in said
    return tmp_path / "db"


def test_perch_hoplite_reads_what_was_written(database, library, tmp_path):
    from perch_hoplite.agile import source_info

    assert {path.name for path in database.iterdir()} == {"hoplite.sqlite", "usearch.index"}
    opened = library.SQLiteUSearchDB.create(str(database))
    windows = opened.get_all_windows(include_embedding=True)
    assert np.allclose([window.offsets for window in windows], [[0, 5], [4.5, 9.5], [9, 12.3456], [0, 0.8]])
    expected = read_embeddings(tmp_path / "t.parquet").vectors.astype(np.float16)
    assert np.array_equal(np.stack([window.embedding for window in windows]), expected)
    assert [item.filename for item in opened.get_all_recordings()] == ["site/a.wav", "b \u00e9.wav"]
    assert [(item.name, item.project) for item in opened.get_all_deployments()] == [("site", "wood"), ("wood", "wood")]
    assert sorted(item.label for item in opened.get_window_annotations(1)) == ["fox", "owl"]
    assert [item.label for item in opened.get_window_annotations(3)] == ["fox"]
    (source,) = source_info.AudioSources.from_config_dict(opened.get_metadata("audio_sources")).audio_globs
    assert (source.dataset_name, source.base_path) == ("wood", str(tmp_path))


def test_perch_hoplite_s_own_search_finds_the_nearest_window(library, tmp_path):
    from perch_hoplite.db import brutalism, score_functions

    vectors = write_table(tmp_path / "t.parquet")
    assert run(tmp_path / "t.parquet", "-o", tmp_path / "db", "--normalize") == 0
    opened = library.SQLiteUSearchDB.create(str(tmp_path / "db"))
    assert np.allclose(np.linalg.norm(opened.get_embedding(2)), 1, atol=1e-3)
    score = score_functions.get_score_fn("dot")
    (best, *_) = brutalism.brute_search(opened, vectors[1], 2, score)
    assert best.window_id == 2
    (nearest, *_) = opened.ui.search(vectors[1].astype(np.float16), 2)
    assert nearest.key == 2


def test_a_table_comes_back_as_it_was(database, tmp_path, capsys):
    assert run(database, "-o", tmp_path / "back.parquet", "--labels", tmp_path / "back.csv") == 0
    before, after = read_embeddings(tmp_path / "t.parquet"), read_embeddings(tmp_path / "back.parquet")
    assert after.paths == before.paths
    assert np.array_equal(after.segments, before.segments)
    assert np.allclose(after.start_ms, before.start_ms, atol=1e-9)
    assert np.allclose(after.end_ms, before.end_ms, atol=1e-9)
    assert np.array_equal(after.vectors, before.vectors.astype(np.float16).astype(np.float32))
    lines = (tmp_path / "back.csv").read_text().splitlines()
    assert lines == ["path,label,start_ms,end_ms", "site/a.wav,owl,100,2000", "site/a.wav,fox,0,12345.6"]


def test_a_table_of_maeast_embed_keeps_its_origin(library, tmp_path, make_encoder):
    make_encoder().save_pretrained(tmp_path / "small")
    options = ["--checkpoint", str(tmp_path / "small"), "--window", "1", "--workers", "0", "--engine", "torch"]
    assert main(["embed", str(AUDIO / "long_drums.opus"), "-o", str(tmp_path / "t.parquet"), *options]) == 0
    assert run(tmp_path / "t.parquet", "-o", tmp_path / "db") == 0
    assert run(tmp_path / "db", "-o", tmp_path / "back.parquet") == 0
    before, after = EmbeddingTable(tmp_path / "t.parquet"), EmbeddingTable(tmp_path / "back.parquet")
    assert after.origin == before.origin is not None
    assert (after.layer, after.rows) == (before.layer, before.rows)
    assert run(tmp_path / "t.parquet", "-o", tmp_path / "unit", "--normalize") == 0
    assert run(tmp_path / "unit", "-o", tmp_path / "unit.parquet") == 0
    assert EmbeddingTable(tmp_path / "unit.parquet").origin is None  # a classifier would be wrong about its vectors


def test_a_database_of_another_program_becomes_a_table(library, tmp_path, capsys):
    from perch_hoplite.db import datatypes, db_loader

    theirs = db_loader.create_new_usearch_db(str(tmp_path / "db"), 4)
    for project in ("north", "south"):
        deployment = theirs.insert_deployment("d", project)
        recording = theirs.insert_recording("same.wav", deployment_id=deployment)
        theirs.insert_window(recording, [0.0, 5.0], np.ones(4))
    theirs.insert_window(recording, [5.0, 10.0])
    theirs.insert_annotation(recording, [0.0, 5.0], "owl", datatypes.LabelType.NEGATIVE, "me")
    theirs.commit()
    theirs.db.close()
    assert run(tmp_path / "db", "-o", tmp_path / "t.parquet") == 1
    assert "--dataset" in capsys.readouterr().err
    assert run(tmp_path / "db", "-o", tmp_path / "t.parquet", "--dataset", "east") == 1
    assert "north, south" in capsys.readouterr().err
    options = ["--dataset", "south", "--labels", tmp_path / "l.csv"]
    assert run(tmp_path / "db", "-o", tmp_path / "t.parquet", *options) == 0
    said = capsys.readouterr().out
    assert "1 x window without a vector" in said
    assert "1 x label that is not positive" in said
    assert EmbeddingTable(tmp_path / "t.parquet").rows == 1


def test_broken_databases_are_one_line(database, tmp_path, capsys):
    def broken(name, content):
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(database, folder)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        return folder

    index, sqlite = (database / "usearch.index").read_bytes(), (database / "hoplite.sqlite").read_bytes()
    faults = [("usearch.index", None), ("usearch.index", b""), ("usearch.index", b"x" * 999)]
    faults += [("usearch.index", index[: len(index) // 4]), ("hoplite.sqlite", b"x" * 999)]
    faults += [("hoplite.sqlite", sqlite[:4096]), ("hoplite.sqlite", sqlite[:100] + bytes(len(sqlite) - 100))]
    capsys.readouterr()
    for name, content in faults:
        assert run(broken(name, content), "-o", tmp_path / "o.parquet") == 1, (name, content)
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert "broken" in error
        assert "unexpected" not in error
        assert not (tmp_path / "o.parquet").exists()


def test_tables_that_a_database_cannot_hold_are_one_line(library, tmp_path, capsys):
    faults = {
        "no end_ms": {"end_ms": pa.array([1.0, None, 2.0, 3.0])},
        "float16": {"vectors": np.full((4, 6), 1e6, np.float32)},
        "no rows": None,
    }
    for words, columns in faults.items():
        write_table(tmp_path / "t.parquet", **(columns or {}))
        if columns is None:
            pq.write_table(pq.read_table(tmp_path / "t.parquet").slice(0, 0), tmp_path / "t.parquet")
        assert run(tmp_path / "t.parquet", "-o", tmp_path / "db") == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_nothing_of_the_user_is_replaced(database, tmp_path, capsys):
    table = tmp_path / "t.parquet"
    assert run(table, "-o", database) == 1
    assert "--force" in capsys.readouterr().err
    assert run(table, "-o", database, "--force") == 0
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    assert run(table, "-o", tmp_path / "notes", "--force") == 1
    assert (tmp_path / "notes" / "mine.txt").exists()
    assert run(database, "-o", table) == 1
    assert run(database, "-o", tmp_path / "o.parquet", "--normalize") == 1
    assert "goes with a table" in capsys.readouterr().err


def test_metadata_of_a_database_cannot_break_the_table(database, library, tmp_path, capsys):
    from ml_collections import config_dict

    for text in ("no json", json.dumps([1]), json.dumps({"settings": 3})):
        opened = library.SQLiteUSearchDB.create(str(database))
        opened.insert_metadata("maeast", config_dict.ConfigDict({"table": text}))
        opened.commit()
        opened.db.close()
        capsys.readouterr()
        assert run(database, "-o", tmp_path / "o.parquet") == 1
        assert capsys.readouterr().err.count("\n") == 1

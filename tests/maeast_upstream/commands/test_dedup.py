import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from map_tables import write_table

from maeast_upstream import cli
from maeast_upstream.commands.dedup import build_parser
from maeast_upstream.similarity.deduplication import THRESHOLD, WHITENED_THRESHOLD

FAR = np.eye(8, dtype=np.float32)


@pytest.fixture
def table(folder, monkeypatch):
    """A table of six clips and two copies; the vector of another clip is almost that of the first."""
    monkeypatch.chdir(folder.parent)
    names = sorted(path.name for path in folder.iterdir())
    shutil.copy(folder / names[0], folder / "=copy.opus")
    shutil.copy(folder / names[0], folder / "two\nlines.opus")
    vectors = FAR[[0, 1, 2, 3, 4, 0, 5, 6]].copy()
    vectors[5, 1] = 0.1
    paths = [f"clips/{name}" for name in [*names, "=copy.opus", "two\nlines.opus"]]
    return write_table(folder.parent / "t.parquet", paths, vectors), paths


def test_dedup_lists_groups_and_files_that_can_be_removed(table, capsys, tmp_path):
    path, names = table
    out, removable = tmp_path / "d.csv", tmp_path / "remove.txt"
    assert cli.main(["dedup", str(path), "-o", str(out), "--removable", str(removable)]) == 0
    printed = capsys.readouterr().out
    assert "8 clips: 1 group of duplicates, 3 copies (2 exact, 1 near)" in printed
    assert "0.9950" in printed
    assert "two\\nlines.opus" in printed
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["group", "path", "segment", "start_ms", "end_ms", "similarity", "kind", "keep"]
    assert [(row["path"], row["kind"], row["keep"]) for row in found] == [
        (names[0], "exact", "yes"),
        (names[5], "near", "no"),
        (names[6], "exact", "no"),
        (names[7], "exact", "no"),
    ]
    assert removable.read_text().splitlines() == [names[5], names[6]]  # no list of lines can hold the last one


def test_dedup_keeps_a_clip_whose_file_is_there(table, tmp_path):
    path, names = table
    Path(names[0]).unlink()
    assert (
        cli.main(["dedup", str(path), "--removable", str(tmp_path / "remove.txt"), "-o", str(tmp_path / "d.csv")]) == 0
    )
    with (tmp_path / "d.csv").open(newline="") as file:
        assert {row["path"]: row["keep"] for row in csv.DictReader(file)}[names[0]] == "no"
    left = {name for name in names if Path(name).exists()} - set((tmp_path / "remove.txt").read_text().splitlines())
    assert left & {names[5], names[6], names[7]}  # a copy of the clip remains


def test_dedup_names_files_that_are_not_there(table, capsys, monkeypatch, tmp_path):
    path, names = table
    monkeypatch.chdir("/")
    assert cli.main(["dedup", str(path)]) == 0
    assert f"bytes not compared of 8 files not found or not readable ({names[0]}, " in capsys.readouterr().out
    assert cli.main(["dedup", str(path), "--relative-to", str(path.parent)]) == 0
    assert "3 copies (2 exact, 1 near)" in capsys.readouterr().out
    removable = tmp_path / "remove.txt"
    assert cli.main(["dedup", str(path), "--relative-to", str(path.parent), "--removable", str(removable)]) == 0
    assert removable.read_text().splitlines()[0] == f"{path.parent}/{names[5]}"  # as it is found from here
    capsys.readouterr()
    assert cli.main(["dedup", str(path), "--compare", "vectors", "--threshold", "0.999"]) == 0
    assert "8 clips: 0 groups of duplicates, 0 copies\n" in capsys.readouterr().out


def test_dedup_takes_the_last_layer_and_says_so(tmp_path, capsys):
    path = write_table(tmp_path / "t.parquet", "aabb", FAR[[0, 1, 0, 2]], layer=["1", "2"] * 2)
    assert cli.main(["dedup", str(path), "--compare", "vectors"]) == 0
    assert "layer 2 of 1, 2; --layer chooses another\n2 clips: 0 groups" in capsys.readouterr().out
    assert cli.main(["dedup", str(path), "--compare", "vectors", "--layer", "1"]) == 0
    assert "1 copy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "2"], "from -1 to 1"),
        (["--relative-to", "nowhere"], "nowhere: no such folder"),
        (["--threshold", "nan"], "finite"),
        (["--layer", "3"], "no layer '3'"),
        (["-o", "t.parquet"], "an input"),
        (["-o", "gone/d.csv"], "no such folder"),
        (["--removable", "clips"], "a folder"),
        (["--removable", "d.csv", "-o", "d.csv"], "the same file"),
    ],
)
def test_dedup_refuses_in_one_line_and_writes_nothing(table, capsys, options, message):
    before = sorted(Path().rglob("*"))
    assert cli.main(["dedup", "t.parquet", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_dedup_refuses_other_tables(tmp_path, capsys):
    steps = write_table(tmp_path / "steps.parquet", "ab", FAR[:2], time_ms=[0.0, 40.0])
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), other)
    broken = write_table(tmp_path / "nan.parquet", "ab", FAR[:2] * np.nan)
    lone = write_table(tmp_path / "lone.parquet", "a", FAR[:1])
    for path, message in (
        (steps, "time step"),
        (other, "columns path and vector"),
        (broken, "NaN"),
        (lone, "at least 2"),
    ):
        assert cli.main(["dedup", str(path)]) == 1
        assert message in capsys.readouterr().err


def test_the_help_names_the_default_thresholds():
    assert f"{THRESHOLD}, or {WHITENED_THRESHOLD} if the vectors are whitened" in build_parser().format_help().replace(
        "\n" + " " * 24, " "
    )

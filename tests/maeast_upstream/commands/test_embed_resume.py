"""`maeast embed`: runs that stop and continue, and outputs that exist already."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from embed_runs import errors, fail_at, note, rows

from maeast_upstream.cli import main
from maeast_upstream.engines import selection
from maeast_upstream.extract import parts, pipeline
from maeast_upstream.extract.part_store import PartStore
from maeast_upstream.storage.folder import Storage

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("options", [[], ["--format", "npy"]])
def test_force_never_removes_what_no_run_wrote(folder, capsys, options):
    names = sorted(path.name for path in folder.iterdir())
    assert main(["embed", str(folder), "-o", str(folder), "--force", *options]) == 1
    assert "an input, and the output of this run" in errors(capsys)
    assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.slow
def test_force_removes_the_parts_of_a_run_and_nothing_beside_them(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    (out / "notes.txt").write_text("precious")
    assert main(["embed", str(folder), "-o", str(out), "--force"]) == 1
    assert "other things in it, such as notes.txt" in errors(capsys)
    assert (out / "part-0000000.parquet").exists()
    (out / "notes.txt").unlink()
    assert main(["embed", str(folder), "-o", str(out), "--force", "--layer", "3"]) == 0
    assert {row["layer"] for row in rows(out)} == {"3"}


def test_force_leaves_a_table_that_another_run_is_making(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    with PartStore(Storage(out)).locked():
        assert main(["embed", str(folder), "-o", str(out), "--force"]) == 1
    assert "another run is writing here" in errors(capsys)
    assert len(rows(out)) == 6


@pytest.mark.slow
def test_force_removes_the_npy_files_of_the_run_before(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["-o", "out", "--format", "npy", "--force"]
    assert main(["embed", "clips", *options]) == 0
    sorted(folder.iterdir())[0].unlink()
    assert main(["embed", "clips", *options]) == 0
    assert len(list(Path("out/clips").glob("*.npy"))) == 5


def test_force_with_a_wrong_command_removes_nothing(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    monkeypatch.setattr(selection, "find_spec", lambda package: None)
    assert main(["embed", str(folder), "-o", str(out), "--force", "--engine", "onnx"]) == 1
    assert "needs the package" in errors(capsys)
    assert len(rows(out)) == 6


def test_a_refused_folder_is_left_as_it_was(folder, capsys):
    names = sorted(path.name for path in folder.iterdir())
    assert main(["embed", str(folder / names[0]), "-o", str(folder)]) == 1
    assert "a folder with other things in it" in errors(capsys)
    assert sorted(path.name for path in folder.iterdir()) == names


def test_parts_that_a_kill_left_beside_a_whole_table_go(folder, tmp_path, monkeypatch):
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(PartStore, "remove", lambda self: None)
        assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert (tmp_path / "e.parquet.parts").exists()
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "e.parquet"]


def test_an_existing_table_is_not_replaced_unasked(folder, tmp_path, capsys):
    out = tmp_path / "e.parquet"
    out.write_text("precious")
    assert main(["embed", str(folder), "-o", str(out)]) == 1
    assert "--force" in errors(capsys)
    assert out.read_text() == "precious"


def test_a_folder_of_parts_is_a_table_and_doing_it_again_does_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_CLIPS", 4)
    out = tmp_path / "out"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert sorted(path.name for path in out.glob("part*")) == ["part-0000000.parquet", "part-0000004.parquet"]
    assert [row["path"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]
    before = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert [path.stat().st_mtime_ns for path in sorted(out.iterdir())] == before


def test_a_table_that_is_whole_already_is_left_and_said_so(folder, tmp_path, capsys):
    out = tmp_path / "e.parquet"
    main(["embed", str(folder), "-o", str(out)])
    before = out.stat().st_mtime_ns
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert "is complete already" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == before
    assert main(["embed", str(folder), "-o", str(out), "--layer", "3"]) == 1
    assert "was begun with layers ['mean'], not ['3']" in errors(capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device; 4 of 6 clips are saved"),
        (OSError(errno.EACCES, "Permission denied"), 1, "e.parquet.parts; the same command"),
        (KeyboardInterrupt(), 130, "stopped: 4 of 6 clips are saved"),
    ],
)
def test_what_is_whole_stays_and_the_same_command_goes_on(
    folder, tmp_path, monkeypatch, capsys, error, status, message
):
    monkeypatch.setattr(parts, "PART_CLIPS", 2)
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 4, error)
        assert main(["embed", str(folder), "-o", str(out)]) == status
    said = errors(capsys)
    assert message in said
    assert "the same command continues from there" in said
    assert not out.exists()
    assert main(["embed", str(folder), "-o", str(out), "--precision", "bf16"]) == 1
    assert "begun with precision 'fp32', not 'bf16'" in errors(capsys)
    submitted, submit_block = [], pipeline.submit_block
    monkeypatch.setattr(
        pipeline, "submit_block", lambda block, *rest: submitted.extend(block) or submit_block(block, *rest)
    )
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert len(submitted) == 2
    assert [row["path"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "e.parquet"]


@pytest.mark.slow
def test_going_on_with_other_files_is_refused(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        main(["embed", str(folder), "-o", str(out)])
    shutil.copy(DATA / "audio" / "long_drums.opus", folder)
    capsys.readouterr()
    assert main(["embed", str(folder), "-o", str(out)]) == 1
    assert "begun with inputs.segments 6, not 7" in errors(capsys)
    assert main(["embed", str(folder), "-o", str(out), "--force"]) == 0
    assert len(rows(out)) == 7


def test_a_file_that_changed_its_size_costs_no_other_its_row(folder, tmp_path, monkeypatch, capsys):
    paths = sorted(folder.iterdir())
    two = sum(path.stat().st_size for path in paths[:2])
    monkeypatch.setattr(parts, "PART_BYTES", two)
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 3, KeyboardInterrupt())
        assert main(["embed", str(folder), "-o", str(out)]) == 130
    paths[0].write_bytes(paths[0].read_bytes() + bytes(two))  # a part of its own from now on
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert [row["path"] for row in rows(out)] == [str(path) for path in paths]


@pytest.mark.slow
def test_errors_of_an_earlier_run_are_listed_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_CLIPS", 2)
    (folder / "0broken.wav").write_bytes(b"nothing")
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 2, KeyboardInterrupt())
        main(["embed", str(folder), "-o", str(out)])
    assert main(["embed", str(folder), "-o", str(out)]) == 3
    assert "0broken.wav" in (tmp_path / "e.parquet.errors.tsv").read_text()
    assert len(rows(out)) == 6


@pytest.mark.slow
def test_an_interrupted_run_with_auto_goes_on_with_the_engine_it_had(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        main(["embed", str(folder), "-o", str(out), "--engine", "torch"])
    capsys.readouterr()
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert "engine torch, fp32: this run was begun with it" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["e.parquet", "parts"])
def test_auto_keeps_the_engine_and_the_precision_of_a_run_that_was_begun_or_finished(
    folder, tmp_path, monkeypatch, capsys, name
):
    command = ["embed", str(folder), "-o", str(tmp_path / name)]
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        assert main([*command, "--engine", "torch", "--precision", "bf16"]) == 130
    capsys.readouterr()
    assert main([*command, "--precision", "auto"]) == 0
    assert "engine torch, bf16: this run was begun with it" in capsys.readouterr().out
    monkeypatch.setattr(selection, "attach", None)  # a finished output needs no engine
    assert main([*command, "--precision", "auto"]) == 0
    assert main([*command, "--precision", "fp32"]) == 1
    assert main([*command, "--precision", "bf16", "--engine", "torch"]) == 0


@pytest.mark.slow
def test_auto_goes_on_where_another_engine_had_failed_to_start(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino")
    monkeypatch.setattr(selection, "_started", lambda *_: None)
    command = ["embed", str(folder), "-o", str(tmp_path / "e.parquet"), "--precision", "int8"]
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        assert main(command) == 130
    assert main(command) == 0
    assert "engine torch, fp32: openvino failed to start" in capsys.readouterr().out
    assert main(command) == 0
    assert "is complete already" in capsys.readouterr().out


@pytest.mark.slow
def test_auto_says_why_it_needs_the_package_of_the_engine_that_a_run_was_begun_with(
    folder, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("openvino")
    command = ["embed", str(folder), "-o", str(tmp_path / "e.parquet")]
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        assert main([*command, "--precision", "int8"]) == 130
    monkeypatch.setattr(selection, "find_spec", lambda _: None)
    capsys.readouterr()
    assert main([*command, "--precision", "auto"]) == 1
    error = errors(capsys)
    assert "e.parquet was begun with engine openvino, int8: engine openvino needs the package openvino" in error
    assert "or give another -o, or --force" in error
    assert main([*command, "--precision", "int8", "--engine", "openvino"]) == 1
    assert "was begun with" not in errors(capsys)


def test_another_precision_that_the_engine_lacks_is_refused_with_both(folder, tmp_path, capsys):
    pytest.importorskip("openvino")
    command = ["embed", str(folder), "-o", str(tmp_path / "e.parquet")]
    assert main(command) == 0
    assert main([*command, "--precision", "int8"]) == 1
    assert "was begun with precision 'fp32', not 'int8'" in errors(capsys)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_forced_run_that_stops_goes_on_without_force(folder, tmp_path, monkeypatch, capsys, error):
    fail_at(monkeypatch, 0, error)
    main(["embed", str(folder), "-o", str(tmp_path / "e.parquet"), "--force"])
    assert "the same command without --force continues from there" in errors(capsys)


def test_a_folder_of_parts_takes_no_npy_files_even_by_force(folder, tmp_path, capsys):
    command = ["embed", str(folder), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    there = sorted(path.name for path in (tmp_path / "out").iterdir())
    for options in ([], ["--force"]):
        assert main([*command, "--format", "npy", *options]) == 1
        assert "a folder of parquet files, not of npy" in errors(capsys)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == there


def test_what_was_noticed_is_listed_and_counted_of_an_earlier_run_too(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parts, "PART_CLIPS", 2)
    paths = sorted(folder.iterdir())
    note(monkeypatch, lambda path: {str(paths[0]): ["cut short", "no header"], str(paths[5]): ["a gap"]}.get(path, []))
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 2, KeyboardInterrupt())
        main(["embed", str(folder), "-o", str(out)])
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    warnings = tmp_path / "e.parquet.warnings.tsv"
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"; 3 warnings in {warnings}")
    rows = [(paths[0], "cut short"), (paths[0], "no header"), (paths[5], "a gap")]
    assert warnings.read_text() == "path\tsegment\tnote\n" + "".join(f"{path}\t0\t{text}\n" for path, text in rows)
    monkeypatch.undo()
    assert main(["embed", str(folder), "-o", str(out), "--force"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "e.parquet"]


def test_a_clip_that_changed_since_its_part_was_made_is_embedded_again(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(parts, "PART_CLIPS", 2)
    out, paths = tmp_path / "e.parquet", sorted(folder.iterdir())
    with monkeypatch.context() as patch:
        fail_at(patch, 4, KeyboardInterrupt())
        assert main(["embed", str(folder), "-o", str(out)]) == 130
    shutil.copy(paths[5], paths[2])
    submitted, submit_block = [], pipeline.submit_block
    monkeypatch.setattr(
        pipeline, "submit_block", lambda block, *rest: submitted.extend(block) or submit_block(block, *rest)
    )
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert "clips 2 to 3 are embedded again" in caplog.text
    assert [segment.path for segment, _ in submitted] == [str(path) for path in paths[2:]]
    table = rows(out)
    assert [row["path"] for row in table] == [str(path) for path in paths]
    assert np.allclose(table[2]["vector"], table[5]["vector"], atol=1e-4)


@pytest.mark.parametrize("change", [lambda path: path.touch(), lambda path: os.truncate(path, 10)])
def test_a_whole_table_of_files_that_changed_is_refused_and_made_again_by_force(folder, tmp_path, capsys, change):
    command = ["embed", str(folder), "-o", str(tmp_path / "e.parquet")]
    assert main(command) == 0
    assert main(command) == 0
    path = sorted(folder.iterdir())[1]
    change(path)
    assert main(command) == 1
    assert f"have changed in size or time, such as {path}: give --force" in errors(capsys)
    assert main([*command, "--force"]) in (0, 3)


def test_a_folder_of_parts_makes_those_of_changed_files_again(folder, tmp_path):
    out = tmp_path / "out"
    for options in ([], ["--format", "npy"]):
        command = ["embed", str(folder), "-o", f"{out}{len(options)}", *options]
        assert main(command) == 0
        first = sorted(folder.iterdir())[0]
        first.write_bytes(b"nothing")
        assert main(command) == 3
        shutil.copy(sorted(folder.iterdir())[1], first)
        assert main(command) == 0
    table = rows(f"{out}0")
    assert len(table) == 6


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_a_run_with_windows_and_one_without_do_not_continue_each_other(folder, tmp_path, capsys, name):
    command = ["embed", str(next(folder.iterdir())), "-o", str(tmp_path / name)]
    windows = ["--window", "1", "--overlap", "0.5"]
    for first, second in (([], windows), (windows, [])):
        assert main([*command, *first, "--force"]) == 0
        assert main([*command, *second]) == 1
        assert "was begun with windows" in errors(capsys)

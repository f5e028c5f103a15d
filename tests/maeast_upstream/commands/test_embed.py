"""`maeast embed`, through the command line."""

import csv
import errno
import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from maeast_upstream import Readout, load_model
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.cli import main
from maeast_upstream.engines import selection
from maeast_upstream.extract import parts, pipeline
from maeast_upstream.extract.part_store import PartStore
from maeast_upstream.storage.folder import Storage

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def folder(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in sorted((DATA / "audio").glob("*.opus"))[:6]:
        shutil.copy(path, clips)
    return clips


def rows(path):
    return pq.read_table(path).to_pylist()


def errors(capsys):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_a_row_for_every_file_equal_to_the_python_call(folder, tmp_path):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    model = load_model()
    table = rows(out)
    assert [row["path"] for row in table] == [str(path) for path in sorted(folder.iterdir())]
    for row in table:
        clip = torch.from_numpy(read_audio(row["path"]))
        assert (row["segment"], row["start_ms"], row["end_ms"], row["layer"]) == (
            0,
            0.0,
            len(clip) / 16,
            "mean",
        )
        assert np.abs(np.array(row["vector"]) - model.embed([clip])[0].numpy()).max() < 1e-4
    noted = json.loads(pq.read_schema(out).metadata[b"maeast"])
    assert noted["config"] == json.loads(json.dumps(model.config.to_dict()))
    assert not (tmp_path / "e.parquet.errors.tsv").exists()


def test_small_batches_give_the_same_rows(folder, tmp_path):
    for name, seconds in (("one", "0.1"), ("all", "1000")):
        main(
            [
                "embed",
                str(folder),
                "-o",
                str(tmp_path / f"{name}.parquet"),
                "--batch-seconds",
                seconds,
            ]
        )
    for one, other in zip(rows(tmp_path / "one.parquet"), rows(tmp_path / "all.parquet"), strict=True):
        assert one["path"] == other["path"]
        assert np.allclose(one["vector"], other["vector"], atol=1e-4)


def test_frames_have_a_row_for_every_time_step_with_its_centre(folder, tmp_path):
    out = tmp_path / "f.parquet"
    options = ["--kind", "frames", "--hop-ms", "40", "--layer", "3", "--mel", "mean"]
    assert main(["embed", str(folder), "-o", str(out), *options]) == 0
    model = load_model()
    table = rows(out)
    for path in sorted(folder.iterdir()):
        clip = torch.from_numpy(read_audio(path))
        expected = model.encode([clip], layers=[3], mel="mean", hop_ms=40)
        mine = [row for row in table if row["path"] == str(path)]
        assert [row["time_ms"] for row in mine] == expected.times_ms[0].tolist()
        assert np.allclose(
            [row["vector"] for row in mine],
            expected.hidden_states[0][0].numpy(),
            atol=1e-4,
        )


def test_the_command_line_changes_the_readout(folder, tmp_path):
    out = tmp_path / "e.parquet"
    options = [
        "--layer",
        "all",
        "--mel",
        "mean",
        "--pool",
        "mean_max",
        "--hop-ms",
        "native",
    ]
    assert main(["embed", str(folder), "-o", str(out), *options]) == 0
    clip = torch.from_numpy(read_audio(sorted(folder.iterdir())[0]))
    expected = load_model().embed([clip], readout=Readout(layer="all", mel="mean", pool="mean_max"))
    assert np.allclose(rows(out)[0]["vector"], expected[0].numpy(), atol=1e-4)


def test_a_broken_file_is_listed_and_the_rest_goes_on(folder, tmp_path, capsys):
    (folder / "0broken.wav").write_bytes(b"nothing")
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 3
    assert len(rows(out)) == 6
    with (tmp_path / "e.parquet.errors.tsv").open(newline="") as file:
        listed = list(csv.DictReader(file, delimiter="\t"))
    assert [row["path"] for row in listed] == [str(folder / "0broken.wav")]
    assert "not audio" in listed[0]["reason"]
    assert "0broken.wav" in errors(capsys)
    (folder / "0broken.wav").unlink()
    assert main(["embed", str(folder), "-o", str(out), "--force"]) == 0
    assert not (tmp_path / "e.parquet.errors.tsv").exists()


def test_nothing_readable_is_status_1_and_no_table(tmp_path, capsys):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    out = tmp_path / "e.parquet"
    assert main(["embed", str(tmp_path / "a.wav"), "-o", str(out)]) == 1
    assert errors(capsys).splitlines()[-1].startswith("error: none of the 1 input files could be read; first error: ")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("options", [[], ["--format", "npy"]])
def test_force_never_removes_what_no_run_wrote(folder, capsys, options):
    names = sorted(path.name for path in folder.iterdir())
    main(["embed", str(folder), "-o", str(folder), "--force", *options])
    assert set(names) <= {path.name for path in folder.iterdir()}
    if not options:
        assert "a folder with other things in it" in errors(capsys)
        assert sorted(path.name for path in folder.iterdir()) == names


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
    assert main(["embed", str(folder), "-o", str(folder)]) == 1
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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["embed"], "required: INPUT, -o/--out"),
        (["embed", "nowhere", "-o", "e.parquet"], "nowhere: no such file or folder"),
        (["embed", ".", "-o", "e.parquet"], "a folder without audio"),
        (
            ["embed", "a.wav", "-o", "e.csv"],
            "give a name that ends in .parquet or .npz, or a folder",
        ),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--checkpoint", "nowhere.pt"],
            "no checkpoint 'nowhere.pt'",
        ),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--layer", "13"],
            "layers are counted from 1 to 12",
        ),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--layer", "top"],
            "layer must be a number from 1, last, mean or all",
        ),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--hop-ms", "fast"],
            "--hop-ms must be native or a number",
        ),
        (["embed", "a.wav", "-o", "e.parquet", "--hop-ms", "30"], "160 or 40 ms apart"),
        (["embed", "a.wav", "-o", "e.parquet", "--pool", "median"], "pool must be"),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--precision", "fp8"],
            "precision must be one of",
        ),
        (["embed", "a.wav", "-o", "e.parquet", "--device", "gpu"], "device"),
        (["embed", "a.wav", "-o", "missing/e.parquet"], "missing: no such folder"),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--speed", "3"],
            "unrecognized arguments: --speed 3",
        ),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--batch-seconds", "many"],
            "invalid float value: 'many'",
        ),
        (
            ["embed", "a.wav", "-o", "e.parquet", "--batch-seconds", "nan"],
            "--batch-seconds must be above 0",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_1(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "a.wav" in argv:
        import soundfile

        soundfile.write("a.wav", np.zeros(16000), 16000)
    assert main(argv) == 1
    error = errors(capsys)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "e.parquet").exists()


def test_a_name_that_is_not_utf8_is_written_with_a_mark(folder, tmp_path):
    clip = sorted(folder.iterdir())[0]
    clip.rename(folder / b"caf\xe9.opus".decode("utf-8", "surrogateescape"))
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert str(folder / "caf\\xe9.opus") in [row["path"] for row in rows(out)]


def test_layers_asked_for_together_are_rows_of_one_pass(folder, tmp_path):
    out = tmp_path / "e.parquet"
    assert (
        main(
            [
                "embed",
                str(folder),
                "-o",
                str(out),
                "--layer",
                "6,mean",
                "--mel",
                "mean",
                "--pool",
                "mean",
            ]
        )
        == 0
    )
    for layer in ("6", "mean"):
        single = tmp_path / f"{layer}.parquet"
        main(
            [
                "embed",
                str(folder),
                "-o",
                str(single),
                "--layer",
                layer,
                "--mel",
                "mean",
                "--pool",
                "mean",
            ]
        )
        for one, other in zip([r for r in rows(out) if r["layer"] == layer], rows(single), strict=True):
            assert one["path"] == other["path"]
            assert np.allclose(one["vector"], other["vector"], atol=1e-5)


def test_npz_and_float16_hold_the_same_vectors(folder, tmp_path):
    main(["embed", str(folder), "-o", str(tmp_path / "e.parquet")])
    assert (
        main(
            [
                "embed",
                str(folder),
                "-o",
                str(tmp_path / "e.npz"),
                "--vectors",
                "float16",
            ]
        )
        == 0
    )
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["vector"].dtype == np.float16
        expected = [row["vector"] for row in rows(tmp_path / "e.parquet")]
        assert np.allclose(arrays["vector"], expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["scene", "frames"])
def test_one_npy_file_a_clip_with_an_index(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert (
        main(
            [
                "embed",
                "clips",
                "-o",
                "out",
                "--format",
                "npy",
                "--kind",
                kind,
                "--layer",
                "3,6",
            ]
        )
        == 0
    )
    index = rows(Path("out") / "index.parquet")
    model = load_model()
    assert [row["path"] for row in index] == [f"clips/{path.name}" for path in sorted(folder.iterdir())]
    for row in index:
        array = np.load(Path("out") / row["file"])
        clip = torch.from_numpy(read_audio(row["path"]))
        if kind == "scene":
            expected = model.embed([clip], readout=replace(model.config.readout, layer=6))[0]
        else:
            expected = model.encode([clip], layers=[6], hop_ms=model.config.readout.hop_ms).hidden_states[0][0]
        assert np.allclose(array[1], expected, atol=1e-4)


def test_a_folder_of_parts_is_a_table_and_doing_it_again_does_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_CLIPS", 4)
    out = tmp_path / "out"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert sorted(path.name for path in out.glob("part*")) == [
        "part-0000000.parquet",
        "part-0000004.parquet",
    ]
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


def fail_at(monkeypatch, clip, error):
    """The parts that begin with this clip or a later one fail."""
    write = PartStore.write

    def failing(store, at, schema):
        if at >= clip:
            raise error
        return write(store, at, schema)

    monkeypatch.setattr(PartStore, "write", failing)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "No space left on device; 4 of 6 clips are saved",
        ),
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
        pipeline,
        "submit_block",
        lambda block, *rest: submitted.extend(block) or submit_block(block, *rest),
    )
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert len(submitted) == 2
    assert [row["path"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "e.parquet"]


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


def test_stdin_gives_the_list(folder, tmp_path, monkeypatch):
    names = b"".join(bytes(path) + b"\n" for path in sorted(folder.iterdir()))
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(names)}))
    out = tmp_path / "e.parquet"
    assert main(["embed", "-", "-o", str(out)]) == 0
    assert [row["path"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]


def test_without_stdin_the_list_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", None)
    assert main(["embed", "-", "-o", str(tmp_path / "e.parquet")]) == 1
    assert errors(capsys) == "error: -: stdin is closed; expected a list of paths\n"


def test_without_stderr_the_work_is_done(folder, tmp_path):
    out = tmp_path / "e.parquet"
    command = [sys.executable, "-m", "maeast_upstream.cli", "embed", str(folder), "-o", str(out)]
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, check=True)
    assert len(rows(out)) == 6
    assert b"6 files" in done.stdout


def test_all_that_waits_may_go_to_the_model_at_once(folder, tmp_path):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out), "--batch-seconds", "1e305"]) == 0
    assert len(rows(out)) == 6


def test_segments_of_a_manifest_are_rows_of_that_audio(tmp_path, long_clip):
    manifest = tmp_path / "m.tsv"
    name = DATA / "audio" / "long_drums.opus"
    manifest.write_text(f"path\tstart\tend\n{name}\t0.5\t1.5\n{name}\t2\t4.25\n")
    out = tmp_path / "e.parquet"
    assert main(["embed", str(manifest), "-o", str(out)]) == 0
    model = load_model()
    table = rows(out)
    assert [(row["segment"], row["start_ms"], row["end_ms"]) for row in table] == [
        (0, 500, 1500),
        (1, 2000, 4250),
    ]
    for row, segment in zip(table, (long_clip[8000:24000], long_clip[32000:68000]), strict=True):
        assert np.allclose(row["vector"], model.embed([segment])[0].numpy(), atol=1e-4)
    frames = tmp_path / "f.parquet"
    assert main(["embed", str(manifest), "-o", str(frames), "--kind", "frames"]) == 0
    second = [row["time_ms"] for row in rows(frames) if row["segment"] == 1]
    assert (
        second
        == (2000 + model.encode([long_clip[32000:68000]], hop_ms=model.config.readout.hop_ms).times_ms[0]).tolist()
    )


def test_tars_and_packed_corpora_give_the_rows_of_their_clips(folder, tmp_path):
    from pretrain.data.packing import pack

    paths = sorted(folder.iterdir())
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in paths:
            tar.add(path, path.name)
    pack(folder, tmp_path / "packed")
    tables = {}
    for name in ("clips", "shard.tar", "packed"):
        assert main(["embed", str(tmp_path / name), "-o", str(tmp_path / f"{name}.parquet")]) == 0
        tables[name] = rows(tmp_path / f"{name}.parquet")
    assert [row["path"] for row in tables["shard.tar"]] == [f"{tmp_path}/shard.tar/{path.name}" for path in paths]
    for one, tar, packed in zip(*tables.values(), strict=True):
        assert np.allclose(one["vector"], tar["vector"], atol=1e-4)
        assert np.allclose(one["vector"], packed["vector"], atol=0.02), "int16 rounding only"


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "fp32"), ("onnx", "int8"), ("torch", "bf16")])
def test_every_engine_gives_torchs_rows_and_is_said_aloud(folder, tmp_path, capsys, engine, precision):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    for name, options in (("torch", []), ("other", ["--precision", precision])):
        command = [
            "embed",
            str(folder),
            "-o",
            str(tmp_path / f"{name}.parquet"),
            "--engine",
        ]
        assert main([*command, "torch" if name == "torch" else engine, *options]) == 0
    assert f"engine {engine}, {precision}" in capsys.readouterr().out
    for one, other in zip(rows(tmp_path / "torch.parquet"), rows(tmp_path / "other.parquet"), strict=True):
        a, b = np.array(one["vector"]), np.array(other["vector"])
        if precision == "fp32":
            assert np.abs(a - b).max() < 1e-4
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > (0.99 if precision == "int8" else 0.999)


def test_an_interrupted_run_with_auto_goes_on_with_the_engine_it_had(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        main(["embed", str(folder), "-o", str(out), "--engine", "torch"])
    capsys.readouterr()
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert "engine torch, fp32: this run was begun with it" in capsys.readouterr().out


def test_auto_goes_on_where_another_engine_had_failed_to_start(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(selection, "_built", lambda *_: None)
    command = ["embed", str(folder), "-o", str(tmp_path / "e.parquet"), "--precision", "int8"]
    with monkeypatch.context() as patch:
        fail_at(patch, 0, KeyboardInterrupt())
        assert main(command) == 130
    assert main(command) == 0
    assert "engine torch, fp32: onnx failed to start" in capsys.readouterr().out
    assert main(command) == 0
    assert "is complete already" in capsys.readouterr().out


def test_another_precision_that_the_engine_lacks_is_refused_with_both(folder, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
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


def test_an_output_that_is_not_utf8_is_told_where_printing_is_strict(folder, tmp_path, monkeypatch):
    out = tmp_path / b"caf\xe9.parquet".decode("utf-8", "surrogateescape")
    told = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(told, "utf-8", "strict", write_through=True))
    for _ in range(2):
        assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert b"caf\\xe9.parquet is complete already" in told.getvalue()
    assert out.exists()


def test_segments_of_two_manifests_and_the_whole_file_have_an_npy_file_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "audio" / "long_drums.opus", "one.opus")
    for name, end in (("short", 0.1), ("long", 0.3)):
        Path(f"{name}.csv").write_text(f"path,start,end\none.opus,0,{end}\n")
    assert main(["embed", "short.csv", "long.csv", "one.opus", "-o", "out", "--format", "npy"]) == 0
    names = ["one.opus.0.0-100.npy", "one.opus.0.0-300.npy", "one.opus.npy"]
    assert [row["file"] for row in rows(Path("out/index.parquet"))] == names
    arrays = [np.load(Path("out") / name) for name in names]
    assert not np.array_equal(arrays[0], arrays[1])


def test_an_error_has_the_row_of_its_manifest(tmp_path):
    good = DATA / "audio" / "long_drums.opus"
    (tmp_path / "m.csv").write_text(f"path,start,end\n{good},0,1\n{good},7000,7001\n")
    assert main(["embed", str(tmp_path / "m.csv"), "-o", str(tmp_path / "e.parquet")]) == 3
    with (tmp_path / "e.parquet.errors.tsv").open(newline="") as file:
        assert [row["segment"] for row in csv.DictReader(file, delimiter="\t")] == ["1"]

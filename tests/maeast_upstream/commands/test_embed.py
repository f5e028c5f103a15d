"""`maeast embed`: the rows of its tables, formats, options and engines."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embed_runs import errors, rows

from maeast_upstream import Readout, load_model
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.cli import main

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.slow
def test_a_row_for_every_file_equal_to_the_python_call(folder, tmp_path):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    model = load_model()
    table = rows(out)
    assert [row["path"] for row in table] == [str(path) for path in sorted(folder.iterdir())]
    for row in table:
        clip = torch.from_numpy(read_audio(row["path"]))
        assert (row["segment"], row["start_ms"], row["end_ms"], row["layer"]) == (0, 0.0, len(clip) / 16, "mean")
        assert np.abs(np.array(row["vector"]) - model.embed([clip])[0].numpy()).max() < 1e-4
    noted = json.loads(pq.read_schema(out).metadata[b"maeast"])
    assert noted["config"] == json.loads(json.dumps(model.config.to_dict()))
    assert not (tmp_path / "e.parquet.errors.tsv").exists()


@pytest.mark.slow
def test_small_batches_give_the_same_rows(folder, tmp_path):
    for name, seconds in (("one", "0.1"), ("all", "1000")):
        main(["embed", str(folder), "-o", str(tmp_path / f"{name}.parquet"), "--batch-seconds", seconds])
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
        assert np.allclose([row["vector"] for row in mine], expected.hidden_states[0][0].numpy(), atol=1e-4)


def test_the_command_line_changes_the_readout(folder, tmp_path):
    out = tmp_path / "e.parquet"
    options = ["--layer", "all", "--mel", "mean", "--pool", "mean_max", "--hop-ms", "native"]
    assert main(["embed", str(folder), "-o", str(out), *options]) == 0
    clip = torch.from_numpy(read_audio(sorted(folder.iterdir())[0]))
    expected = load_model().embed([clip], readout=Readout(layer="all", mel="mean", pool="mean_max"))
    assert np.allclose(rows(out)[0]["vector"], expected[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["embed"], "required: INPUT, -o/--out"),
        (["embed", "nowhere", "-o", "e.parquet"], "nowhere: no such file or folder"),
        (["embed", ".", "-o", "e.parquet"], "a folder without audio"),
        (["embed", "a.wav", "-o", "e.csv"], "give a name that ends in .parquet or .npz, or a folder"),
        (["embed", "a.wav", "-o", "e.parquet", "--checkpoint", "nowhere.pt"], "no checkpoint 'nowhere.pt'"),
        (["embed", "a.wav", "-o", "e.parquet", "--layer", "13"], "layers are counted from 1 to 12"),
        (["embed", "a.wav", "-o", "e.parquet", "--layer", "top"], "layer must be a number from 1, last, mean or all"),
        (["embed", "a.wav", "-o", "e.parquet", "--hop-ms", "fast"], "--hop-ms must be native or a number"),
        (["embed", "a.wav", "-o", "e.parquet", "--hop-ms", "30"], "160 or 40 ms apart"),
        (["embed", "a.wav", "-o", "e.parquet", "--pool", "median"], "pool must be"),
        (["embed", "a.wav", "-o", "e.parquet", "--precision", "fp8"], "precision must be one of"),
        (["embed", "a.wav", "-o", "e.parquet", "--device", "gpu"], "device"),
        (["embed", "a.wav", "-o", "missing/e.parquet"], "missing: no such folder"),
        (["embed", "a.wav", "-o", "e.parquet", "--speed", "3"], "unrecognized arguments: --speed 3"),
        (["embed", "a.wav", "-o", "e.parquet", "--batch-seconds", "many"], "invalid float value: 'many'"),
        (["embed", "a.wav", "-o", "e.parquet", "--batch-seconds", "nan"], "--batch-seconds must be above 0"),
        (["embed", "a.wav", "-o", "e.parquet", "--max-hours", "nan"], "--max-hours must be above 0"),
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


@pytest.mark.slow
def test_layers_asked_for_together_are_rows_of_one_pass(folder, tmp_path):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out), "--layer", "6,mean", "--mel", "mean", "--pool", "mean"]) == 0
    for layer in ("6", "mean"):
        single = tmp_path / f"{layer}.parquet"
        main(["embed", str(folder), "-o", str(single), "--layer", layer, "--mel", "mean", "--pool", "mean"])
        for one, other in zip([r for r in rows(out) if r["layer"] == layer], rows(single), strict=True):
            assert one["path"] == other["path"]
            assert np.allclose(one["vector"], other["vector"], atol=1e-5)


@pytest.mark.slow
def test_npz_and_float16_hold_the_same_vectors(folder, tmp_path):
    main(["embed", str(folder), "-o", str(tmp_path / "e.parquet")])
    assert main(["embed", str(folder), "-o", str(tmp_path / "e.npz"), "--vectors", "float16"]) == 0
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["vector"].dtype == np.float16
        expected = [row["vector"] for row in rows(tmp_path / "e.parquet")]
        assert np.allclose(arrays["vector"], expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["scene", "frames"])
def test_one_npy_file_a_clip_with_an_index(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "clips", "-o", "out", "--format", "npy", "--kind", kind, "--layer", "3,6"]) == 0
    index = rows(Path("out") / "index.parquet")
    model = load_model()
    assert [row["path"] for row in index] == [f"clips/{path.name}" for path in sorted(folder.iterdir())]
    for row in index:
        array = np.load(Path("out") / row["file"])
        clip = torch.from_numpy(read_audio(row["path"]))
        if kind == "scene":
            expected = model.embed([clip], readout=replace(model.config.readout.full, layer=6))[0]
        else:
            expected = model.encode([clip], layers=[6], hop_ms=model.config.readout.hop_ms).hidden_states[0][0]
        assert np.allclose(array[1], expected, atol=1e-4)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("onnx", "fp32"), ("torch", "bf16")]
)
def test_every_engine_gives_torchs_rows_and_is_said_aloud(folder, tmp_path, capsys, engine, precision):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    for name, options in (("torch", []), ("other", ["--precision", precision])):
        command = ["embed", str(folder), "-o", str(tmp_path / f"{name}.parquet"), "--engine"]
        assert main([*command, "torch" if name == "torch" else engine, *options]) == 0
    assert f"engine {engine}, {precision}" in capsys.readouterr().out
    for one, other in zip(rows(tmp_path / "torch.parquet"), rows(tmp_path / "other.parquet"), strict=True):
        a, b = np.array(one["vector"]), np.array(other["vector"])
        if precision == "fp32":
            assert np.abs(a - b).max() < 1e-4
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999

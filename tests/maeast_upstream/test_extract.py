"""`maeast embed`, through the command line."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from maeast_upstream import Readout, load_model
from maeast_upstream.audio import read_audio
from maeast_upstream.cli import main

DATA = Path(__file__).parents[1] / "data"


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
        assert row["duration_s"] == len(clip) / 16000
        assert np.abs(np.array(row["vector"]) - model.embed([clip])[0].numpy()).max() < 1e-4
    noted = json.loads(pq.read_schema(out).metadata[b"maeast"])
    assert noted["config"] == json.loads(json.dumps(model.config.to_dict()))
    assert not (tmp_path / "e.parquet.errors.tsv").exists()


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
    assert errors(capsys).splitlines()[-1].startswith("error: not one of 1 files could be read; the first: ")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


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
        (["embed", "a.wav", "-o", "e.csv"], "give a name that ends in .parquet"),
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
        (["embed", "a.wav", "-o", "e.parquet", "--batch-seconds", "nan"], "batch_seconds above 0"),
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


def test_ctrl_c_is_status_130(monkeypatch, capsys, folder, tmp_path):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["maeast_upstream.extract"], "embed_files", stop)
    assert main(["embed", str(folder), "-o", str(tmp_path / "e.parquet")]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_files_far_longer_than_what_is_read_ahead_come_in_order(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["maeast_upstream.extract"], "READ_AHEAD_SECONDS", 0.01)
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out), "--batch-seconds", "0.1"]) == 0
    assert [row["path"] for row in rows(out)] == [str(path) for path in sorted(folder.iterdir())]


def test_a_fault_of_the_program_is_no_unreadable_file(folder, tmp_path, monkeypatch):
    def fail(path):
        raise RuntimeError("a fault")

    monkeypatch.setattr(sys.modules["maeast_upstream.extract"], "read_audio", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["embed", str(folder), "-o", str(tmp_path / "e.parquet")])
    assert not [path for path in tmp_path.iterdir() if path != folder]


def test_a_name_that_is_not_utf8_is_written_with_a_mark(folder, tmp_path):
    clip = sorted(folder.iterdir())[0]
    clip.rename(folder / b"caf\xe9.opus".decode("utf-8", "surrogateescape"))
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    assert str(folder / "caf\ufffd.opus") in [row["path"] for row in rows(out)]

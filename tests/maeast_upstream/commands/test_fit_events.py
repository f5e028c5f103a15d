"""``maeast fit`` on events and ``maeast predict`` with what it saved, on real drum hits and a small checkpoint."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from event_mixtures import write_mixtures
from hear_tasks import write_labels
from labelled_clips import save_small_checkpoint

from maeast_upstream import load_model
from maeast_upstream.cli import ExitStatus, main
from maeast_upstream.data.labelled_segments import read_labelled_segments
from maeast_upstream.data.windows import Windows
from maeast_upstream.events import steps
from maeast_upstream.events.detector import EventDetector
from maeast_upstream.events.scoring import count_hits

pytest.importorskip("sed_eval")

COLUMNS = ["path", "segment", "start_ms", "end_ms", "label", "probability"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with recordings, events.csv, a small checkpoint and the detector that was fitted with it."""
    folder = tmp_path_factory.mktemp("events")
    labels = write_labels(folder, keep=("kick", "snare"))
    write_mixtures(folder / "task", labels, {"train": 4, "valid": 2, "test": 2}, seconds=4.0, events=5)
    save_small_checkpoint(folder / "small")
    assert fit(folder / "task" / "events.csv", folder) == ExitStatus.DONE
    return folder


def fit(table, folder, out="model", *options):
    return main(
        ["fit", str(table), "-o", str(folder / out), "--checkpoint", str(folder / "small"), "--workers", "0", *options]
    )


def predict(*arguments):
    return main(["predict", *map(str, arguments), "--workers", "0", "--engine", "torch"])


def test_a_detector_is_saved_with_its_scores(trained):
    detector = EventDetector.load(trained / "model")
    assert detector.labels == ("kick", "snare")
    assert detector.about["counts"]["valid"]["recordings"] == 2
    scores = detector.about["scores"]
    assert set(scores) == {"valid", "test"}
    assert scores["valid"]["onset_f_measure"] > 0.5
    assert scores["valid"]["segment_error_rate"] < 1
    assert sorted(path.name for path in (trained / "model").iterdir()) == ["classifier.json", "classifier.safetensors"]


def test_events_of_files_are_those_of_python(trained, tmp_path):
    out = tmp_path / "found.parquet"
    audio = trained / "task" / "audio"
    assert predict(audio, "-m", trained / "model", "-o", out) == ExitStatus.DONE
    table = pq.read_table(out)
    assert table.column_names == COLUMNS
    found = EventDetector.load(trained / "model").predict(audio, load_model(trained / "small"), workers=0)
    for row, expected in zip(table.to_pylist(), found, strict=True):
        assert row == pytest.approx(expected)
    assert predict(audio, "-m", trained / "model", "-o", out) == ExitStatus.DONE  # complete already
    assert predict(audio, "-m", trained / "model", "-o", tmp_path / "found.csv", "--events") == ExitStatus.DONE
    with (tmp_path / "found.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(table)


def test_events_are_written_as_selection_tables_and_train_again(trained, tmp_path):
    audio, model = trained / "task" / "audio", trained / "model"
    shutil.copytree(audio, tmp_path / "audio")
    found, out = tmp_path / "found.csv", tmp_path / "raven"
    assert predict(tmp_path / "audio", "-m", model, "-o", out, "--format", "raven") == ExitStatus.DONE
    assert predict(tmp_path / "audio", "-m", model, "-o", found, "--relative-to", tmp_path) == ExitStatus.DONE
    with found.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["path"].partition("/")[0] for row in rows} == {"audio"}
    read = read_labelled_segments(out)
    assert len(read) == len(rows)
    assert read[0].start_ms == pytest.approx(float(rows[0]["start_ms"]), abs=0.1)
    shutil.copytree(trained / "small", tmp_path / "small")
    assert fit(out, tmp_path) == ExitStatus.DONE


def test_an_interrupted_prediction_continues(trained, tmp_path, monkeypatch):
    from maeast_upstream.extract import parts

    audio, whole, out = trained / "task" / "audio", tmp_path / "whole.parquet", tmp_path / "found.parquet"
    assert predict(audio, "-m", trained / "model", "-o", whole) == ExitStatus.DONE
    monkeypatch.setattr(parts, "PART_CLIPS", 3)
    write_part = parts.write_part

    def stop_at_second(number, *arguments):
        if number >= 3:
            raise KeyboardInterrupt
        return write_part(number, *arguments)

    monkeypatch.setattr(parts, "write_part", stop_at_second)
    assert predict(audio, "-m", trained / "model", "-o", out) == ExitStatus.INTERRUPTED
    monkeypatch.setattr(parts, "write_part", write_part)
    assert predict(audio, "-m", trained / "model", "-o", out) == ExitStatus.DONE
    ours, theirs = pq.read_table(out), pq.read_table(whole)
    assert ours.select(["path", "label", "start_ms", "end_ms"]) == theirs.select(
        ["path", "label", "start_ms", "end_ms"]
    )
    np.testing.assert_allclose(ours["probability"], theirs["probability"], atol=1e-5)


def test_events_of_a_long_recording_are_found_window_by_window(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "STEP_WINDOWS", Windows(4.0, 1.0))
    with (trained / "task" / "events.csv").open() as file:
        events = list(csv.DictReader(file))
    names = sorted({event["path"] for event in events})
    samples = np.concatenate([soundfile.read(trained / "task" / name)[0] for name in names])
    soundfile.write(tmp_path / "long.wav", samples, 16_000)
    detector = EventDetector.load(trained / "model")
    found = list(detector.predict(tmp_path / "long.wav", load_model(trained / "small"), workers=0))
    hits = 0
    for label in detector.labels:
        starts = [4000 * names.index(e["path"]) + float(e["start_ms"]) for e in events if e["label"] == label]
        hits += count_hits(sorted(starts), [row["start_ms"] for row in found if row["label"] == label])
    assert hits > 0.6 * len(events)
    assert len(found) < 1.5 * len(events)


def test_unreadable_recordings_are_left_out_and_listed(trained, tmp_path, capsys):
    shutil.copytree(trained / "task", tmp_path / "task")
    (tmp_path / "task" / "audio" / "train-0001.wav").write_bytes(b"no audio")
    shutil.copytree(trained / "small", tmp_path / "small")
    assert fit(tmp_path / "task" / "events.csv", tmp_path) == ExitStatus.PARTIAL
    assert "train-0001.wav" in (tmp_path / "model" / "left_out.tsv").read_text()
    assert "left out" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--multi-label"], ["--balance"], ["--pool", "mean"], ["--hop-ms", "40"]])
def test_options_of_fitting_clips_do_not_go_with_events(trained, option, capsys):
    assert fit(trained / "task" / "events.csv", trained, "other", *option) == ExitStatus.FAILED
    assert f"{option[0]} does not go with events" in capsys.readouterr().err
    assert not (trained / "other").exists()


def test_an_event_behind_the_end_leaves_nothing_half_written(trained, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    (tmp_path / "events.csv").write_text("path,label,start_ms,end_ms\na.wav,kick,0,500\na.wav,kick,2000,2500\n")
    shutil.copytree(trained / "small", tmp_path / "small")
    assert fit(tmp_path / "events.csv", tmp_path) == ExitStatus.FAILED
    assert "row 2: an event begins at 2000 ms" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_another_checkpoint_is_refused(trained, tmp_path, capsys):
    shutil.copytree(trained / "model", tmp_path / "model")
    path = tmp_path / "model" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": "bundled"}))
    assert predict(trained / "task" / "audio", "-m", tmp_path / "model", "-o", tmp_path / "found.csv") == 1
    assert "not the checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "found.csv").exists()


@pytest.mark.parametrize("option", [["--top", "2"], ["--threshold", "0.5"], ["--all-scores"], ["--window", "5"]])
def test_options_of_clips_do_not_go_with_events(trained, tmp_path, option, capsys):
    assert predict(trained / "task" / "audio", "-m", trained / "model", "-o", tmp_path / "f.csv", *option) == 1
    assert f"{option[0]} does not go with events" in capsys.readouterr().err


def test_sed_eval_that_is_missing_is_named_with_its_extra(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "sed_eval", None)
    assert fit(trained / "task" / "events.csv", trained, "other") == ExitStatus.FAILED
    error = capsys.readouterr().err
    assert "sed_eval" in error
    assert "[events]" in error

"""HEAR tasks from labels.csv: what is written, and what is refused."""

import csv
import os
import shutil

import numpy as np
import pytest
import soundfile
from hear_tasks import EVENT_COLUMNS, read_json, write_labels, write_table
from sounds import tone

from hear_api.tasks import create
from hear_api.tasks.format import check_task
from maeast_upstream.cli import run


def test_a_scene_task_has_every_clip_in_its_split_with_its_label(tmp_path):
    out = tmp_path / "TASKS" / "small-v1-full"
    assert run(create.main, [str(write_labels(tmp_path)), "-o", str(out)]) == 0
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "valid", "test"):
        content = read_json(out, split)
        expected = sorted(row["label"] for row in rows if row["split"] == split)
        assert sorted(label for (label,) in content.values()) == expected
        assert {path.name for path in (out / "16000" / split).iterdir()} == set(content)
    vocabulary = (out / "labelvocabulary.csv").read_text().splitlines()
    assert vocabulary == ["idx,label", "0,kick", "1,six", "2,snare", "3,zero"]
    metadata = read_json(out, "task_metadata")
    assert metadata["task_name"] == "small"
    assert (metadata["embedding_type"], metadata["prediction_type"]) == ("scene", "multiclass")
    assert check_task(out).clips == len(rows)


@pytest.mark.parametrize(("seconds", "samples"), [("0.4", 6400), ("0.33333", 5333), ("longest", 11200), ("own", None)])
def test_clips_have_exactly_the_requested_length(tones, seconds, samples):
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--seconds", seconds]) == 0
    lengths = {path.name: soundfile.info(path) for path in (tones / "out").rglob("*.wav")}
    assert all((info.samplerate, info.channels) == (16000, 1) for info in lengths.values())
    expected = [4800, 8000, 11200] if samples is None else [samples] * 3
    assert [lengths[f"{number}.wav"].frames for number in range(3)] == expected
    duration = read_json(tones / "out", "task_metadata")["sample_duration"]
    assert duration is None if samples is None else round(duration * 16000) == samples


def test_a_short_clip_is_padded_and_a_long_one_is_cut(tones):
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--seconds", "0.4"]) == 0
    short = soundfile.read(tones / "out" / "16000" / "train" / "0.wav")[0]
    long = soundfile.read(tones / "out" / "16000" / "test" / "2.wav")[0]
    assert np.allclose(short[:4800], tone(16000, 0.3), atol=1e-4)
    assert not short[4800:].any()
    assert np.allclose(long[200:6200], tone(16000, 0.4)[200:6200], atol=2e-2)


def test_clips_of_one_name_in_different_folders_get_different_names(tones):
    for folder in ("a", "b", "a-b"):
        (tones / folder).mkdir()
    for name in ("a/b/x.wav", "a-b/x.wav", "a/x.wav", "b/x.wav", "b/X.flac"):
        (tones / name).parent.mkdir(exist_ok=True)
        soundfile.write(tones / name, tone(16000, 0.1), 16000)
    rows = ["a/b/x.wav,l,train", "a-b/x.wav,m,train", "a/x.wav,l,valid", "b/x.wav,m,test", "b/X.flac,l,test"]
    assert run(create.main, [str(write_table(tones, *rows)), "-o", str(tones / "out")]) == 0
    names = [name for split in ("train", "valid", "test") for name in read_json(tones / "out", split)]
    assert len({name.lower() for name in names}) == 5
    assert "a-x.wav" in names


def test_rows_of_one_clip_make_it_multilabel(tones):
    labels = write_table(tones, "0.wav,a,train", "0.wav,b,train", "1.wav,,valid", "2.wav,b,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 0
    assert read_json(tones / "out", "train") == {"0.wav": ["a", "b"]}
    assert read_json(tones / "out", "valid") == {"1.wav": []}
    metadata = read_json(tones / "out", "task_metadata")
    assert metadata["prediction_type"] == "multilabel"
    assert metadata["evaluation"] == ["mAP", "d_prime", "aucroc"]


def test_events_keep_their_times_and_are_cut_with_their_clip(tones):
    rows = ["0.wav,a,10.5,120.25,train", "0.wav,b,100,300,train", "1.wav,,,,valid", "2.wav,a,350,700,test"]
    labels = write_table(tones, *rows, "2.wav,b,450,500,test", header=EVENT_COLUMNS)
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--seconds", "0.4"]) == 0
    train = [{"label": "a", "start": 10.5, "end": 120.25}, {"label": "b", "start": 100.0, "end": 300.0}]
    assert read_json(tones / "out", "train") == {"0.wav": train}
    assert read_json(tones / "out", "valid") == {"1.wav": []}
    assert read_json(tones / "out", "test") == {"2.wav": [{"label": "a", "start": 350.0, "end": 400.0}]}
    assert read_json(tones / "out", "task_metadata")["embedding_type"] == "event"


def test_events_are_read_as_a_spreadsheet_writes_them(tones):
    rows = ["\ufeffFile; Label;START_MS;End_ms;Split", "0.wav;a;10.5;120;Train", "1.wav;a;1;2;dev", "2.wav;a;1;2;TEST"]
    (tones / "labels.csv").write_text("\r\n".join(rows), newline="")
    options = ["-o", str(tones / "out"), "--path-column", "file"]
    assert run(create.main, [str(tones / "labels.csv"), *options]) == 0
    assert read_json(tones / "out", "train") == {"0.wav": [{"label": "a", "start": 10.5, "end": 120.0}]}
    assert set(read_json(tones / "out", "valid")) == {"1.wav"}
    assert set(read_json(tones / "out", "test")) == {"2.wav"}


def test_names_in_any_bytes_make_a_task(tones):
    folder = shutil.copytree(tones, tones.parent / os.fsdecode(b"t\xe9"))
    for number in range(3):
        (folder / f"{number}.wav").rename(folder / os.fsdecode(b"\xe9%d.wav" % number))
    rows = b"\n".join(
        b"\xe9%d.wav,%s,%s" % row for row in [(0, b"a", b"train"), (1, b"b", b"valid"), (2, b"a", b"test")]
    )
    (folder / "labels.csv").write_bytes(b"path,label,split\n" + rows)
    assert run(create.main, [str(folder / "labels.csv"), "-o", str(folder / "out")]) == 0


def test_other_split_names_are_folds(tones):
    labels = write_table(tones, "0.wav,a,fold00", "1.wav,b,fold01", "2.wav,a,fold02")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 0
    metadata = read_json(tones / "out", "task_metadata")
    assert metadata["split_mode"] == "presplit_kfold"
    assert metadata["splits"] == ["fold00", "fold01", "fold02"]


def test_without_valid_clips_a_quarter_of_train_becomes_valid(tmp_path):
    labels = write_labels(tmp_path)
    labels.write_text(labels.read_text().replace(",valid", ",train"))
    assert run(create.main, [str(labels), "-o", str(tmp_path / "out")]) == 0
    train, valid = read_json(tmp_path / "out", "train"), read_json(tmp_path / "out", "valid")
    assert 0.18 <= len(valid) / (len(train) + len(valid)) <= 0.26
    assert {label for (label,) in valid.values()} == {"kick", "snare", "six", "zero"}


@pytest.mark.parametrize(
    "label", ["1.#IND", "-1.#QNAN", "01", "NA", "null", "None", "nan", "1.0", "1e3", "TRUE", "none", "inf", "+1"]
)
def test_a_label_that_the_kit_would_change_is_refused(tones, label, capsys):
    labels = write_table(tones, f"0.wav,{label},train", "1.wav,b,valid", "2.wav,b,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    assert f"label {label!r} would be changed by the kit" in capsys.readouterr().err
    assert not (tones / "out").exists()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["0.wav,a,train", "1.wav,b,valid"], "no clip has the split 'test'"),
        (["0.wav,a,train", "1.wav,b,fold", "2.wav,b,test"], "split 'fold' beside train, valid, test"),
        (["0.wav,a,x", "1.wav,b,y"], "at least 3 folds"),
        (["0.wav,a,train", "0.wav,b,test"], "row 2 has 0.wav in test, an earlier one in train"),
        (["0.wav,a,train", "0.wav,a,train", "1.wav,b,test"], "a second time"),
        (["0.wav,,train", "1.wav,,test"], "no row has a label"),
        (["0.wav,a,train", "./0.wav,b,test"], "row 2 has ./0.wav in test, an earlier one in train"),
        (["0.wav,a,../../x", "1.wav,b,y", "2.wav,b,z"], "split '../../x' cannot be the name of a folder"),
        (["0.wav,a,..", "1.wav,b,y", "2.wav,b,z"], "split '..' cannot be the name of a folder"),
    ],
)
def test_a_table_that_makes_no_task_is_refused(tones, rows, reason, capsys):
    assert run(create.main, [str(write_table(tones, *rows)), "-o", str(tones / "out")]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tones / "out").exists()


@pytest.mark.parametrize("times", [("5", "4"), ("-1", "4"), ("x", "4"), ("", ""), ("1", "nan")])
def test_events_without_two_times_in_order_are_refused(tones, times, capsys):
    labels = write_table(tones, f"0.wav,a,{times[0]},{times[1]},train", header=EVENT_COLUMNS)
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    assert "row 1: expected 0 <= start_ms < end_ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--seconds", "-1"], "--seconds must be"), (["--metrics", "wer"], "metrics of multiclass tasks are")],
)
def test_wrong_options_are_one_line(tones, options, reason, capsys):
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out"), *options]) == 1
    assert reason in capsys.readouterr().err


def test_a_recording_that_cannot_be_read_is_left_out_and_named(tones, capsys):
    (tones / "bad.wav").write_bytes(b"nothing")
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test", "bad.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 3
    assert "bad.wav" in capsys.readouterr().err
    assert read_json(tones / "out", "test") == {"2.wav": ["a"]}


def test_a_split_without_a_readable_recording_is_named_with_the_first_error(tones, capsys):
    (tones / "bad.wav").write_bytes(b"nothing")
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "bad.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    said = capsys.readouterr().err
    assert f"no recording of test can be read; first error: {tones / 'bad.wav'}: " in said
    assert not (tones / "out").exists()


@pytest.mark.parametrize("start", [500, 500.5, 9000])
def test_an_event_that_begins_after_its_recording_is_refused_with_its_row(tones, start, capsys):
    rows = ["0.wav,a,1,2,train", "1.wav,a,499,600,valid", f"1.wav,a,{start},10000,valid", "2.wav,a,1,2,test"]
    labels = write_table(tones, *rows, header=EVENT_COLUMNS)
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    said = capsys.readouterr().err
    assert f"row 3: an event begins at {start:g} ms, but {tones / '1.wav'} ends at 500 ms" in said
    assert not (tones / "out").exists()


def test_one_recording_by_two_names_is_one_clip(tones):
    (tones / "folder").mkdir()
    (tones / "folder" / "link.wav").symlink_to(tones / "0.wav")
    rows = ["0.wav,a,train", "./folder/../0.wav,b,train", "folder/link.wav,c,train", "1.wav,b,valid", "2.wav,a,test"]
    assert run(create.main, [str(write_table(tones, *rows)), "-o", str(tones / "out")]) == 0
    assert read_json(tones / "out", "train") == {"0.wav": ["a", "b", "c"]}


@pytest.mark.parametrize("letter", ["x", "\u00e4"])
def test_paths_too_long_for_a_file_name_are_cut_to_different_names(tones, letter):
    rows = []
    for number, split in enumerate(("train", "valid", "test", "test")):
        place = tones.joinpath(*[letter * 90] * 3, str(number), "clip.wav")
        place.parent.mkdir(parents=True)
        shutil.copy(tones / "0.wav", place)
        rows.append(f"{place.relative_to(tones)},{'ab'[number % 2]},{split}")
    assert run(create.main, [str(write_table(tones, *rows)), "-o", str(tones / "out")]) == 0
    names = [path.name for path in (tones / "out").rglob("*.wav")]
    assert len(set(names)) == 4
    assert max(len(name.encode()) for name in names) < 220


def test_force_replaces_tasks_only_and_never_what_they_are_made_of(tones, task_at_48_khz, capsys):
    rows, task = ("0.wav,a,train", "1.wav,b,valid", "2.wav,a,test"), tones / "task"

    def refused(source, out):
        before = sorted(tones.rglob("*"))
        assert run(create.main, [str(source), "-o", str(out), "--force"]) == 1
        assert sorted(tones.rglob("*")) == before
        return capsys.readouterr().err

    assert run(create.main, [str(write_table(tones, *rows)), "-o", str(task)]) == 0
    assert f"{tones / '0.wav'}, from which it would be made" in refused(tones / "labels.csv", tones)
    assert "from which it would be made" in refused(task_at_48_khz, task_at_48_khz)
    assert "holds 48000/test/2.wav, which hear-task did not make" in refused(tones / "labels.csv", task_at_48_khz)
    (task / "16000" / "train" / "mine.wav").touch()
    assert "holds 16000/train/mine.wav, which hear-task did not make" in refused(tones / "labels.csv", task)
    (task / "16000" / "train" / "mine.wav").unlink()
    of_itself = write_table(tones, *(f"task/16000/{row.split(',')[2]}/{row}" for row in rows))
    assert "from which it would be made" in refused(of_itself, task)
    assert run(create.main, [str(task_at_48_khz), "-o", str(task), "--force"]) == 0
    assert check_task(task).metadata["sample_duration"] == 0.5


def test_an_existing_task_is_replaced_by_force_only(tones, capsys):
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 0
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    assert "--force" in capsys.readouterr().err
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--force", "--seconds", "0.1"]) == 0
    assert read_json(tones / "out", "task_metadata")["sample_duration"] == 0.1

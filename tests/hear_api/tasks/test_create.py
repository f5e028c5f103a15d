"""HEAR tasks from labels.csv: what is written, and what is refused."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import soundfile
from hear_tasks import write_labels
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sounds import tone, write

from hear_api.tasks import create
from hear_api.tasks.format import TaskError, check_task, would_change
from maeast_upstream.cli import run

EVENTS = "path,label,start_ms,end_ms,split"


def table(folder, *rows, header="path,label,split"):
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def read(task, name):
    return json.loads((task / f"{name}.json").read_text())


@pytest.fixture
def tones(tmp_path):
    """Recordings of 0.3, 0.5 and 0.7 s at three rates."""
    for number, (rate, seconds) in enumerate([(16000, 0.3), (44100, 0.5), (8000, 0.7)]):
        write(tmp_path / f"{number}.wav", tone(rate, seconds), rate)
    return tmp_path


def test_a_scene_task_has_every_clip_in_its_split_with_its_label(tmp_path):
    out = tmp_path / "TASKS" / "small-v1-full"
    assert run(create.main, [str(write_labels(tmp_path)), "-o", str(out)]) == 0
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "valid", "test"):
        content = read(out, split)
        expected = sorted(row["label"] for row in rows if row["split"] == split)
        assert sorted(label for (label,) in content.values()) == expected
        assert {path.name for path in (out / "16000" / split).iterdir()} == set(content)
    vocabulary = (out / "labelvocabulary.csv").read_text().splitlines()
    assert vocabulary == ["idx,label", "0,kick", "1,six", "2,snare", "3,zero"]
    metadata = read(out, "task_metadata")
    assert metadata["task_name"] == "small"
    assert (metadata["embedding_type"], metadata["prediction_type"]) == (
        "scene",
        "multiclass",
    )
    assert check_task(out).clips == len(rows)


@pytest.mark.parametrize(
    ("seconds", "samples"),
    [("0.4", 6400), ("0.33333", 5333), ("longest", 11200), ("own", None)],
)
def test_clips_have_exactly_the_samples_asked_for(tones, seconds, samples):
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--seconds", seconds]) == 0
    lengths = {path.name: soundfile.info(path) for path in (tones / "out").rglob("*.wav")}
    assert all((info.samplerate, info.channels) == (16000, 1) for info in lengths.values())
    expected = [4800, 8000, 11200] if samples is None else [samples] * 3
    assert [lengths[f"{number}.wav"].frames for number in range(3)] == expected
    duration = read(tones / "out", "task_metadata")["sample_duration"]
    assert duration is None if samples is None else round(duration * 16000) == samples


def test_a_short_clip_is_followed_by_zeros_and_a_long_one_is_cut(tones):
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--seconds", "0.4"]) == 0
    short = soundfile.read(tones / "out" / "16000" / "train" / "0.wav")[0]
    long = soundfile.read(tones / "out" / "16000" / "test" / "2.wav")[0]
    assert np.allclose(short[:4800], tone(16000, 0.3), atol=1e-4)
    assert not short[4800:].any()
    assert np.allclose(long[200:6200], tone(16000, 0.4)[200:6200], atol=2e-2)


def test_clips_of_one_name_in_different_folders_stay_apart(tones):
    for folder in ("a", "b", "a-b"):
        (tones / folder).mkdir()
    for name in ("a/b/x.wav", "a-b/x.wav", "a/x.wav", "b/x.wav", "b/X.flac"):
        (tones / name).parent.mkdir(exist_ok=True)
        soundfile.write(tones / name, tone(16000, 0.1), 16000)
    rows = [
        "a/b/x.wav,l,train",
        "a-b/x.wav,m,train",
        "a/x.wav,l,valid",
        "b/x.wav,m,test",
        "b/X.flac,l,test",
    ]
    assert run(create.main, [str(table(tones, *rows)), "-o", str(tones / "out")]) == 0
    names = [name for split in ("train", "valid", "test") for name in read(tones / "out", split)]
    assert len({name.lower() for name in names}) == 5
    assert "a-x.wav" in names


def test_rows_of_one_clip_make_it_multilabel(tones):
    labels = table(tones, "0.wav,a,train", "0.wav,b,train", "1.wav,,valid", "2.wav,b,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 0
    assert read(tones / "out", "train") == {"0.wav": ["a", "b"]}
    assert read(tones / "out", "valid") == {"1.wav": []}
    metadata = read(tones / "out", "task_metadata")
    assert metadata["prediction_type"] == "multilabel"
    assert metadata["evaluation"] == ["mAP", "d_prime", "aucroc"]


def test_events_keep_their_times_and_are_cut_with_their_clip(tones):
    rows = [
        "0.wav,a,10.5,120.25,train",
        "0.wav,b,100,300,train",
        "1.wav,,,,valid",
        "2.wav,a,350,700,test",
    ]
    labels = table(tones, *rows, "2.wav,b,450,500,test", header=EVENTS)
    assert run(create.main, [str(labels), "-o", str(tones / "out"), "--seconds", "0.4"]) == 0
    train = [
        {"label": "a", "start": 10.5, "end": 120.25},
        {"label": "b", "start": 100.0, "end": 300.0},
    ]
    assert read(tones / "out", "train") == {"0.wav": train}
    assert read(tones / "out", "valid") == {"1.wav": []}
    assert read(tones / "out", "test") == {"2.wav": [{"label": "a", "start": 350.0, "end": 400.0}]}
    assert read(tones / "out", "task_metadata")["embedding_type"] == "event"


def test_other_split_names_are_folds(tones):
    labels = table(tones, "0.wav,a,fold00", "1.wav,b,fold01", "2.wav,a,fold02")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 0
    metadata = read(tones / "out", "task_metadata")
    assert metadata["split_mode"] == "presplit_kfold"
    assert metadata["splits"] == ["fold00", "fold01", "fold02"]


def test_without_valid_clips_a_quarter_of_train_becomes_valid(tmp_path):
    labels = write_labels(tmp_path)
    labels.write_text(labels.read_text().replace(",valid", ",train"))
    assert run(create.main, [str(labels), "-o", str(tmp_path / "out")]) == 0
    train, valid = read(tmp_path / "out", "train"), read(tmp_path / "out", "valid")
    assert 0.18 <= len(valid) / (len(train) + len(valid)) <= 0.26
    assert {label for (label,) in valid.values()} == {"kick", "snare", "six", "zero"}


@pytest.mark.parametrize(
    "label",
    ["1.#IND", "-1.#QNAN", "01", "NA", "null", "None", "nan", "1.0", "1e3", "TRUE", "none", "inf", "+1"],
)
def test_a_label_that_the_kit_would_change_is_refused(tones, label, capsys):
    labels = table(tones, f"0.wav,{label},train", "1.wav,b,valid", "2.wav,b,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    assert f"label {label!r} would be changed by the kit" in capsys.readouterr().err
    assert not (tones / "out").exists()


@settings(deadline=None)
@given(st.lists(st.text(max_size=8) | st.from_regex(r"[-+]?[0-9]{1,20}(\.[0-9]+)?(e[0-9])?", fullmatch=True)))
@example(["1", "2"])
@example(["-5"])
@example(["_silence_", "yes"])
@example(["inf"])
@example(["True"])
@example(["N/A"])
@example(["1.#QNAN"])
@example(["-1.#IND"])
def test_a_label_that_is_not_refused_comes_out_of_pandas_as_it_was(labels):
    pandas = pytest.importorskip("pandas")
    labels = sorted(
        {label for label in labels if not would_change(label) and "\0" not in label and label.isprintable()}
    )
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([("idx", "label"), *enumerate(labels)])
    file.seek(0)
    frame = pandas.read_csv(file)
    assert list(frame["label"].astype(str)) == labels


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["0.wav,a,train", "1.wav,b,valid"], "no clip has the split 'test'"),
        (
            ["0.wav,a,train", "1.wav,b,dev", "2.wav,b,test"],
            "split 'dev' beside train, valid, test",
        ),
        (["0.wav,a,x", "1.wav,b,y"], "at least 3 folds"),
        (
            ["0.wav,a,train", "0.wav,b,test"],
            "row 2 has 0.wav in test, an earlier one in train",
        ),
        (["0.wav,a,train", "0.wav,a,train", "1.wav,b,test"], "a second time"),
        (["0.wav,,train", "1.wav,,test"], "no row has a label"),
        (["0.wav,a,train", "./0.wav,b,test"], "row 2 has ./0.wav in test, an earlier one in train"),
        (["0.wav,a,../../x", "1.wav,b,y", "2.wav,b,z"], "split '../../x' cannot be the name of a folder"),
        (["0.wav,a,..", "1.wav,b,y", "2.wav,b,z"], "split '..' cannot be the name of a folder"),
    ],
)
def test_a_table_that_makes_no_task_is_refused(tones, rows, reason, capsys):
    assert run(create.main, [str(table(tones, *rows)), "-o", str(tones / "out")]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tones / "out").exists()


@pytest.mark.parametrize("times", [("5", "4"), ("-1", "4"), ("x", "4"), ("", ""), ("1", "nan")])
def test_events_without_two_times_in_order_are_refused(tones, times, capsys):
    labels = table(tones, f"0.wav,a,{times[0]},{times[1]},train", header=EVENTS)
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    assert "row 1: expected 0 <= start_ms < end_ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seconds", "-1"], "--seconds must be"),
        (["--metrics", "wer"], "metrics of multiclass tasks are"),
    ],
)
def test_wrong_options_are_one_line(tones, options, reason, capsys):
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out"), *options]) == 1
    assert reason in capsys.readouterr().err


def test_a_recording_that_cannot_be_read_is_left_out_and_named(tones, capsys):
    (tones / "bad.wav").write_bytes(b"nothing")
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test", "bad.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 3
    assert "bad.wav" in capsys.readouterr().err
    assert read(tones / "out", "test") == {"2.wav": ["a"]}


def test_a_split_of_which_nothing_can_be_read_is_named_with_its_first_recording(tones, capsys):
    (tones / "bad.wav").write_bytes(b"nothing")
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "bad.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    said = capsys.readouterr().err
    assert f"no recording of test can be read; first error: {tones / 'bad.wav'}: " in said
    assert not (tones / "out").exists()


@pytest.mark.parametrize("start", [500, 500.5, 9000])
def test_an_event_that_begins_after_its_recording_is_refused_with_its_row(tones, start, capsys):
    rows = ["0.wav,a,1,2,train", "1.wav,a,499,600,valid", f"1.wav,a,{start},10000,valid", "2.wav,a,1,2,test"]
    labels = table(tones, *rows, header=EVENTS)
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    said = capsys.readouterr().err
    assert f"row 3: an event begins at {start:g} ms, but {tones / '1.wav'} ends at 500 ms" in said
    assert not (tones / "out").exists()


def test_one_recording_by_two_names_is_one_clip(tones):
    (tones / "folder").mkdir()
    (tones / "folder" / "link.wav").symlink_to(tones / "0.wav")
    rows = ["0.wav,a,train", "./folder/../0.wav,b,train", "folder/link.wav,c,train", "1.wav,b,valid", "2.wav,a,test"]
    assert run(create.main, [str(table(tones, *rows)), "-o", str(tones / "out")]) == 0
    assert read(tones / "out", "train") == {"0.wav": ["a", "b", "c"]}


@pytest.mark.parametrize("letter", ["x", "\u00e4"])
def test_paths_too_long_for_a_files_name_are_cut_and_stay_apart(tones, letter):
    rows = []
    for number, split in enumerate(("train", "valid", "test", "test")):
        place = tones.joinpath(*[letter * 90] * 3, str(number), "clip.wav")
        place.parent.mkdir(parents=True)
        shutil.copy(tones / "0.wav", place)
        rows.append(f"{place.relative_to(tones)},{'ab'[number % 2]},{split}")
    assert run(create.main, [str(table(tones, *rows)), "-o", str(tones / "out")]) == 0
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

    assert run(create.main, [str(table(tones, *rows)), "-o", str(task)]) == 0
    assert f"{tones / '0.wav'}, from which it would be made" in refused(tones / "labels.csv", tones)
    assert "from which it would be made" in refused(task_at_48_khz, task_at_48_khz)
    assert "holds 48000/test/2.wav, which hear-task did not make" in refused(tones / "labels.csv", task_at_48_khz)
    (task / "16000" / "train" / "mine.wav").touch()
    assert "holds 16000/train/mine.wav, which hear-task did not make" in refused(tones / "labels.csv", task)
    (task / "16000" / "train" / "mine.wav").unlink()
    of_itself = table(tones, *(f"task/16000/{row.split(',')[2]}/{row}" for row in rows))
    assert "from which it would be made" in refused(of_itself, task)
    assert run(create.main, [str(task_at_48_khz), "-o", str(task), "--force"]) == 0
    assert check_task(task).metadata["sample_duration"] == 0.5


def test_an_existing_task_is_replaced_by_force_only(tones, capsys):
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 0
    assert run(create.main, [str(labels), "-o", str(tones / "out")]) == 1
    assert "--force" in capsys.readouterr().err
    assert (
        run(
            create.main,
            [str(labels), "-o", str(tones / "out"), "--force", "--seconds", "0.1"],
        )
        == 0
    )
    assert read(tones / "out", "task_metadata")["sample_duration"] == 0.1


def test_numbers_are_labels_as_hears_own_pitches_are(tones):
    labels = table(tones, "0.wav,21,train", "1.wav,108,valid", "2.wav,21,test")
    assert run(create.main, [str(labels), "-o", str(tones / "task")]) == 0
    (tones / "task" / "train.json").write_text('{"0.wav": [21]}')
    assert check_task(tones / "task").clips == 3


@pytest.mark.parametrize("end", ["1" + "0" * 400, "Infinity", "NaN", "true"])
def test_a_time_beyond_all_bounds_is_refused(tones, end):
    labels = table(
        tones,
        "0.wav,a,1,2,train",
        "1.wav,a,1,2,valid",
        "2.wav,a,1,2,test",
        header=EVENTS,
    )
    assert run(create.main, [str(labels), "-o", str(tones / "task")]) == 0
    (tones / "task" / "train.json").write_text(
        '{"0.wav": [{"label": "a", "start": 0, "end": END}]}'.replace("END", end)
    )
    with pytest.raises(TaskError, match="0 <= start <= end"):
        check_task(tones / "task")


@pytest.fixture
def task_at_48_khz(tones):
    """As HEAR's own tasks are to be had: 0.5 s clips; one is a sample short at 16 kHz."""
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    task = tones / "esc50-v2.0.0-full"
    assert run(create.main, [str(labels), "-o", str(task), "--seconds", "0.5"]) == 0
    for number, split in enumerate(("train", "valid", "test")):
        wav = task / "48000" / split / f"{number}.wav"
        wav.parent.mkdir(parents=True)
        soundfile.write(wav, tone(48000, 0.5, hz=300)[: 24000 - number], 48000)
    shutil.rmtree(task / "16000")
    return task


def test_a_task_at_another_rate_becomes_the_same_one_at_16_khz(task_at_48_khz, tones, capsys):
    out = tones / "TASKS16" / task_at_48_khz.name
    out.parent.mkdir()
    assert run(create.main, [str(task_at_48_khz), "-o", str(out)]) == 0
    assert "3 clips at 16000 Hz" in capsys.readouterr().out
    for name in (
        "task_metadata.json",
        "labelvocabulary.csv",
        "train.json",
        "valid.json",
        "test.json",
    ):
        assert (out / name).read_bytes() == (task_at_48_khz / name).read_bytes()
    for wav in out.rglob("*.wav"):
        samples, rate = soundfile.read(wav)
        assert (rate, len(samples)) == (16000, 8000)
        assert np.allclose(samples[200:-200], tone(16000, 0.5, hz=300)[200:-200], atol=1e-3)


def test_a_task_that_loses_a_recording_is_not_resampled(task_at_48_khz, tones, capsys):
    (task_at_48_khz / "48000" / "test" / "2.wav").write_bytes(b"nothing")
    assert run(create.main, [str(task_at_48_khz), "-o", str(tones / "out")]) == 1
    assert "2.wav" in capsys.readouterr().err
    assert not (tones / "out").exists()
    assert (
        run(
            create.main,
            [str(task_at_48_khz), "-o", str(tones / "out"), "--seconds", "1"],
        )
        == 1
    )
    assert "--seconds" in capsys.readouterr().err
    shutil.rmtree(task_at_48_khz / "48000")
    assert run(create.main, [str(task_at_48_khz), "-o", str(tones / "out")]) == 1
    assert "no folder of recordings" in capsys.readouterr().err


def damage(task, how):
    """Break a task; what is to be said of it."""
    first = next(iter(read(task, "test")))
    wav = task / "16000" / "test" / first
    if how == "broken json":
        (task / "train.json").write_text('{"a": ["b"')
        return "train.json: not JSON"
    if how == "missing wav":
        wav.unlink()
        return f"{first}: no such recording"
    if how == "wrong rate":
        soundfile.write(wav, tone(8000, 0.5), 8000)
        return f"{first}: 8000 Hz, 1 channel(s); expected 16000 Hz"
    if how == "stereo":
        soundfile.write(wav, np.zeros((800, 2)), 16000)
        return f"{first}: 16000 Hz, 2 channel(s)"
    if how == "another length":
        soundfile.write(wav, tone(16000, 0.123), 16000)
        return f"{first}: 1968 samples"
    if how == "other lengths":
        for path in (task / "16000").rglob("*.wav"):
            soundfile.write(path, tone(16000, 0.123), 16000)
        return "1968 samples; expected 11200, the sample_duration of 0.7 s"
    if how == "NaN":
        soundfile.write(wav, np.full(11200, np.nan, np.float32), 16000, subtype="FLOAT")
        return f"{first}: NaN or infinite samples"
    if how == "another rate's folder":
        (task / "16000").rename(task / "48000")
        return "recordings at 48000 Hz only"
    if how == "a way out":
        (task / "test.json").write_text('{"../../../x.wav": ["a"]}')
        return "not a plain file name"
    if how == "unknown label":
        (task / "test.json").write_text(json.dumps({first: ["q"]}))
        return "label 'q' is not in labelvocabulary.csv"
    if how == "two labels":
        (task / "test.json").write_text(json.dumps({first: ["a", "b"]}))
        return "expected a list of one label"
    if how == "vocabulary":
        (task / "labelvocabulary.csv").write_text("idx,label\n0,a\n1,NA\n")
        return "label 'NA' would be changed"
    if how == "no metadata":
        (task / "task_metadata.json").unlink()
        return "task_metadata.json: no such file"
    metadata = read(task, "task_metadata")
    key, value, said = {
        "metric": ("evaluation", ["wer"], "evaluation must be a list"),
        "type": (
            "embedding_type",
            "frame",
            "embedding_type must be scene or event, got 'frame'",
        ),
        "splits": ("splits", ["train"], "splits must be train, valid, test"),
        "duration": (
            "sample_duration",
            "long",
            "sample_duration must be seconds or null",
        ),
        "grid": (
            "evaluation_params",
            {"task_specific_param_grid": {"lr": 1}},
            "must give a list for each name",
        ),
    }[how]
    (task / "task_metadata.json").write_text(json.dumps(metadata | {key: value}))
    return said


DAMAGES = [
    *(
        "broken json",
        "missing wav",
        "wrong rate",
        "stereo",
        "another length",
        "other lengths",
        "NaN",
        "another rate's folder",
    ),
    *("a way out", "unknown label", "two labels", "vocabulary", "no metadata"),
    *("metric", "type", "splits", "duration", "grid"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_task_is_refused_with_the_name_of_the_file(tones, how):
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    task = tones / "task"
    assert run(create.main, [str(labels), "-o", str(task)]) == 0
    check_task(task)
    expected = damage(task, how)
    with pytest.raises(TaskError) as caught:
        check_task(task)
    assert expected in str(caught.value)
    assert str(task) in str(caught.value)


def test_the_digest_follows_the_content_and_not_the_place(tones):
    labels = table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "task")]) == 0
    digest = check_task(tones / "task").digest
    shutil.copytree(tones / "task", tones / "copy" / "task")
    assert check_task(tones / "copy" / "task").digest == digest
    (tones / "task" / "test.json").write_text('{"2.wav": ["b"]}')
    assert check_task(tones / "task").digest != digest

"""What is checked in a task folder."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import soundfile
from hear_tasks import EVENT_COLUMNS, read_json, write_table
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sounds import tone

from hear_api.tasks import create
from hear_api.tasks.format import TaskError, check_task, would_change
from maeast_upstream.cli import run


@pytest.mark.slow
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
def test_pandas_does_not_change_a_label_that_is_accepted(labels):
    pandas = pytest.importorskip("pandas")
    labels = sorted(
        {label for label in labels if not would_change(label) and "\0" not in label and label.isprintable()}
    )
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([("idx", "label"), *enumerate(labels)])
    file.seek(0)
    frame = pandas.read_csv(file)
    assert list(frame["label"].astype(str)) == labels


def test_numbers_can_be_labels_as_in_hears_pitch_tasks(tones):
    labels = write_table(tones, "0.wav,21,train", "1.wav,108,valid", "2.wav,21,test")
    assert run(create.main, [str(labels), "-o", str(tones / "task")]) == 0
    (tones / "task" / "train.json").write_text('{"0.wav": [21]}')
    assert check_task(tones / "task").clips == 3


@pytest.mark.parametrize("end", ["1" + "0" * 400, "Infinity", "NaN", "true"])
def test_a_time_that_is_no_finite_number_is_refused(tones, end):
    labels = write_table(tones, "0.wav,a,1,2,train", "1.wav,a,1,2,valid", "2.wav,a,1,2,test", header=EVENT_COLUMNS)
    assert run(create.main, [str(labels), "-o", str(tones / "task")]) == 0
    (tones / "task" / "train.json").write_text(
        '{"0.wav": [{"label": "a", "start": 0, "end": END}]}'.replace("END", end)
    )
    with pytest.raises(TaskError, match="0 <= start <= end"):
        check_task(tones / "task")


def damage(task, how):
    """Break a task; what is to be said of it."""
    first = next(iter(read_json(task, "test")))
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
    metadata = read_json(task, "task_metadata")
    key, value, said = {
        "metric": ("evaluation", ["wer"], "evaluation must be a list"),
        "type": ("embedding_type", "frame", "embedding_type must be scene or event, got 'frame'"),
        "splits": ("splits", ["train"], "splits must be train, valid, test"),
        "duration": ("sample_duration", "long", "sample_duration must be seconds or null"),
        "grid": ("evaluation_params", {"task_specific_param_grid": {"lr": 1}}, "must give a list for each name"),
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
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    task = tones / "task"
    assert run(create.main, [str(labels), "-o", str(task)]) == 0
    check_task(task)
    expected = damage(task, how)
    with pytest.raises(TaskError) as caught:
        check_task(task)
    assert expected in str(caught.value)
    assert str(task) in str(caught.value)


def test_the_digest_depends_on_the_content_and_not_on_the_folder(tones):
    labels = write_table(tones, "0.wav,a,train", "1.wav,b,valid", "2.wav,a,test")
    assert run(create.main, [str(labels), "-o", str(tones / "task")]) == 0
    digest = check_task(tones / "task").digest
    shutil.copytree(tones / "task", tones / "copy" / "task")
    assert check_task(tones / "copy" / "task").digest == digest
    (tones / "task" / "test.json").write_text('{"2.wav": ["b"]}')
    assert check_task(tones / "task").digest != digest

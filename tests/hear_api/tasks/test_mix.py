"""Recordings with events at known times."""

import csv
import itertools
import json

import numpy as np
import pytest
import soundfile
from hear_tasks import DATA, write_labels

from hear_api.tasks import create, mix
from hear_api.tasks.format import check_task
from maeast_upstream.cli import run

RATE = 16000


def events(folder):
    with (folder / "events.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_event_is_heard_where_the_table_says(tmp_path):
    labels = write_labels(tmp_path)
    out = tmp_path / "mixed"
    assert (
        run(
            mix.main,
            [
                str(labels),
                "-o",
                str(out),
                "--count",
                "train=3,test=2",
                "--seconds",
                "4",
            ],
        )
        == 0
    )
    rows = events(out)
    assert len(rows) >= 10
    for row in rows:
        samples = soundfile.read(out / row["path"])[0]
        assert len(samples) == 4 * RATE
        start, end = (round(float(row[key]) * RATE / 1000) for key in ("start_ms", "end_ms"))
        inside, before = samples[start:end], samples[max(0, start - 1500) : start]
        assert np.square(inside).max() > 10 * np.square(before).max(initial=0)
    assert {row["split"] for row in rows} == {"train", "test"}


def test_events_do_not_overlap_and_stay_in_their_recording(tmp_path):
    out = tmp_path / "mixed"
    options = ["--count", "train=5", "--seconds", "3", "--events", "9"]
    assert run(mix.main, [str(write_labels(tmp_path)), "-o", str(out), *options]) == 0
    for name in {row["path"] for row in events(out)}:
        times = [(float(row["start_ms"]), float(row["end_ms"])) for row in events(out) if row["path"] == name]
        assert times == sorted(times)
        assert all(one[1] + 99.9 <= other[0] for one, other in itertools.pairwise(times))
        assert times[0][0] >= 0
        assert times[-1][1] <= 3000


def test_a_background_is_below_the_events_by_the_given_ratio(tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "clip.wav", 0.3 * rng.standard_normal(RATE), RATE)
    soundfile.write(tmp_path / "floor.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
    (tmp_path / "labels.csv").write_text("path,label,split\nclip.wav,noise,test\n")
    options = ["--count", "test=1", "--seconds", "5", "--events", "1", "--snr", "20"]
    options += ["--background", str(tmp_path / "floor.wav")]
    assert (
        run(
            mix.main,
            [str(tmp_path / "labels.csv"), "-o", str(tmp_path / "out"), *options],
        )
        == 0
    )
    (row,) = events(tmp_path / "out")
    samples = soundfile.read(tmp_path / "out" / row["path"])[0]
    inside = np.zeros(len(samples), bool)
    inside[round(float(row["start_ms"]) * 16) : round(float(row["end_ms"]) * 16)] = True
    ratio = 10 * np.log10(np.mean(samples[inside] ** 2) / np.mean(samples[~inside] ** 2))
    assert 19 < ratio < 21


def test_the_same_seed_gives_the_same_recordings_and_another_one_others(tmp_path):
    labels = str(write_labels(tmp_path))
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert (
            run(
                mix.main,
                [
                    labels,
                    "-o",
                    str(tmp_path / name),
                    "--count",
                    "train=2",
                    "--seed",
                    seed,
                ],
            )
            == 0
        )
    one, same, other = ((tmp_path / name / "events.csv").read_text() for name in "abc")
    assert one == same != other


def test_mixtures_become_an_event_task(tmp_path):
    labels = str(write_labels(tmp_path))
    assert (
        run(
            mix.main,
            [
                labels,
                "-o",
                str(tmp_path / "mixed"),
                "--count",
                "train=4,valid=2,test=2",
            ],
        )
        == 0
    )
    task = tmp_path / "TASKS" / "mixed-v1-full"
    assert run(create.main, [str(tmp_path / "mixed" / "events.csv"), "-o", str(task)]) == 0
    checked = check_task(task)
    assert checked.clips == 8
    assert checked.metadata["sample_duration"] == 10.0
    content = json.loads((task / "test.json").read_text())
    assert sum(map(len, content.values())) == sum(row["split"] == "test" for row in events(tmp_path / "mixed"))


@pytest.mark.parametrize("loud", [0, 1000])
def test_a_background_that_is_silent_for_a_recording_is_refused_by_name(tmp_path, loud, capsys):
    """Where there is nothing to be above, the events would have no level."""
    path = tmp_path / "floor.wav"
    soundfile.write(path, np.append(np.zeros(5 * RATE), np.full(loud, 0.1)), RATE)
    options = [str(write_labels(tmp_path)), "-o", str(tmp_path / "mixed"), "--background", str(path)]
    assert run(mix.main, [*options, "--count", "test=1", "--seconds", "5"]) == 1
    assert f"{path}: silent for 5 s" in capsys.readouterr().err
    assert not (tmp_path / "mixed").exists()
    if loud:
        assert run(mix.main, [*options, "--count", "test=1", "--seconds", "6"]) == 0


def test_force_replaces_what_hear_mix_made_and_nothing_else(tmp_path, capsys):
    out, kept = tmp_path / "mixed", tmp_path / "own" / "audio" / "kick.wav"
    options = ["--count", "train=2", "--seconds", "3", "--force"]
    labels = str(write_labels(tmp_path))
    for _ in range(2):
        assert run(mix.main, [labels, "-o", str(out), *options]) == 0
    (out / "notes.txt").touch()
    assert run(mix.main, [labels, "-o", str(out), *options]) == 1
    assert f"{out} holds notes.txt, which hear-mix did not make" in capsys.readouterr().err
    assert (out / "notes.txt").exists()
    kept.parent.mkdir(parents=True)
    kept.write_bytes((DATA / "audio" / "long_drums.opus").read_bytes())
    (tmp_path / "own" / "events.csv").write_text("path,label,split\naudio/kick.wav,kick,train\n")
    for target in (tmp_path / "own", tmp_path):
        assert run(mix.main, [labels, "-o", str(target), *options]) == 1
        assert kept.exists()
    (out / "notes.txt").unlink()
    rows = "".join(f"{out / row['path']},{row['label']},train\n" for row in events(out)[:1])
    (tmp_path / "of_them.csv").write_text("path,label,split\n" + rows)
    capsys.readouterr()
    assert run(mix.main, [str(tmp_path / "of_them.csv"), "-o", str(out), *options]) == 1
    assert "of which it would be made" in capsys.readouterr().err
    assert len(list(out.rglob("*.wav"))) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--count", "dev=2"], "no clip has the split 'dev'"),
        (["--count", "train"], "--count must be like"),
        (["--count", "train=1,train=2"], "--count names a split twice"),
        (["--count", "../outside=1"], "--count must be like"),
        (["--count", "dev.clean=1"], "no clip has the split 'dev.clean'"),
        (["--count", "train=1", "--seconds", "0.2"], "does not fit into 0.2 s"),
        (["--background", str(DATA / "labels.csv")], "not audio"),
        (["--events", "0"], "--events must be at least 1"),
        (["--seed", "-1"], "a seed is a whole number"),
        (["--snr", "nan"], "--snr must be between -100 and 100 dB, got nan"),
        (["--snr", "inf"], "--snr must be between -100 and 100 dB, got inf"),
        (["--snr", "1e9"], "--snr must be between -100 and 100 dB"),
    ],
)
def test_what_cannot_be_mixed_is_one_line_and_leaves_nothing(tmp_path, options, reason, capsys):
    out = tmp_path / "mixed"
    assert run(mix.main, [str(write_labels(tmp_path)), "-o", str(out), *options]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]

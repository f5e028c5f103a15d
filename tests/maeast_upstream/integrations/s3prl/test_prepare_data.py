"""`maeast superb-data`: people's clips in the layouts of s3prl's KS, SID and ER."""

import csv
import json
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import tone, write
from superb_sets import DATA, RATE
from torch.utils.data import random_split

from maeast_upstream.cli import run
from maeast_upstream.commands.superb_data import main
from maeast_upstream.integrations.s3prl.checks import check_superb_task
from maeast_upstream.integrations.s3prl.configs import read_config
from maeast_upstream.integrations.s3prl.layouts import KS_WORDS, ks_percent
from maeast_upstream.integrations.s3prl.prepare_data import HEADS

LABELS = DATA / "labels.csv"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The three layouts of tests/data."""
    root = tmp_path_factory.mktemp("superb")
    assert main(["ks", str(LABELS), "-o", str(root / "ks"), "--noise", "made"]) == 0
    assert main(["sid", str(LABELS), "-o", str(root / "sid")]) == 0
    assert main(["er", str(LABELS), "-o", str(root / "er"), "--steps", "50"]) == 0
    return root


@pytest.fixture
def table(tmp_path):
    """A function that writes clips of half a second, by default two labels in all splits, and their labels.csv."""

    def make(rows=None, **audio):
        rows = rows or [(f"{label}-{split}.wav", label, split) for label in ("yes", "a") for split in SPLITS]
        for name, _, _ in rows:
            write(tmp_path / name, audio.get(Path(name).stem.replace("-", "_"), tone(RATE)), RATE)
        path = tmp_path / "labels.csv"
        path.write_text("path,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
        return path

    return make


SPLITS = ("train", "valid", "test")


def expected():
    """(label, split) of tests/data, counted."""
    with LABELS.open(newline="") as file:
        return Counter((row["label"], row["split"]) for row in csv.DictReader(file))


def failing(capsys, *argv):
    """The one line that a command ends with."""
    assert run(main, [str(part) for part in argv]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


def test_the_printed_command_is_quoted_for_a_shell(tmp_path, capsys):
    out = tmp_path / "Anna's clips"
    assert main(["sid", str(LABELS), "-o", str(out)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line)[6:11] == ["voxceleb1", "-c", str(out / "config.yaml"), "-n", "Anna's clips"]


@pytest.mark.parametrize("task", sorted(HEADS))
def test_the_data_passes_the_check_before_training(folders, task):
    check_superb_task(HEADS[task], read_config(folders / task / "config.yaml"), "train")


def test_all_wavs_are_16_khz_mono_and_sound_like_the_clip(folders):
    wavs = sorted(folders.rglob("*.wav"))
    assert len(wavs) > 300
    assert {(info.samplerate, info.channels) for info in map(soundfile.info, wavs)} == {(RATE, 1)}
    original = soundfile.read(DATA / "audio" / "yes-flite_kal16_1_0.opus", dtype="float32")[0]
    for copy in (path for path in wavs if "yes-flite-kal16" in path.name):
        np.testing.assert_allclose(soundfile.read(copy)[0], original, atol=2**-15)


def test_ks_keeps_every_clip_in_its_split_whatever_its_name(folders):
    found = Counter()
    for path in (folders / "ks" / "train").glob("*/*.wav"):
        if path.parent.name != "_background_noise_":
            percent = ks_percent(path.name.split("_nohash_")[0])
            assert not 10 <= percent < 20
            found[path.parent.name, "valid" if percent < 10 else "train"] += 1
    for path in (folders / "ks" / "test").glob("*/*.wav"):
        found[path.parent.name, "test"] += 1
    silence = found.pop(("_silence_", "test"))
    assert silence == round(17 / 4)
    wanted = Counter()
    for (label, split), count in expected().items():
        wanted[label if label in KS_WORDS else "_unknown_", split] += count
    assert found == wanted


def test_ks_test_silence_is_not_in_the_training_noise(folders):
    ks = folders / "ks"
    for name in ("white-noise", "pink-noise"):
        noise = soundfile.read(ks / "train" / "_background_noise_" / f"{name}.wav", dtype="int16")[0]
        assert len(noise) == 48 * RATE
        windows = np.lib.stride_tricks.sliding_window_view(noise, 8)
        for path in (ks / "test" / "_silence_").glob(f"{name}*.wav"):
            silence = soundfile.read(path, dtype="int16")[0]
            assert len(silence) == RATE
            assert silence.any()
            assert not (windows == silence[:8]).all(axis=1).any()


def test_sid_gives_each_label_a_speaker_and_keeps_the_splits(folders):
    sid = folders / "sid"
    with (sid / "speakers.csv").open(newline="") as file:
        label_of = {row["speaker"]: row["label"] for row in csv.DictReader(file)}
    assert sorted(label_of) == [f"id{10001 + i}" for i in range(14)]
    split_of = {"1": "train", "2": "valid", "3": "test"}
    found = Counter()
    for line in (sid / "clips.txt").read_text().splitlines():
        number, name = line.split()
        part = "test" if number == "3" else "dev"
        assert (sid / part / "wav" / name).is_file()
        found[label_of[name.split("/")[0]], split_of[number]] += 1
    assert found == expected()


def test_er_takes_any_labels_and_its_random_dev_is_the_valid_split(folders):
    config = read_config(folders / "er" / "config.yaml")["downstream_expert"]["datarc"]
    tables = [json.loads((folders / "er" / "meta_data" / "Session1" / f"{x}_meta_data.json").read_text()) for x in SETS]
    assert tables[0]["labels"] == tables[1]["labels"]
    assert list(tables[0]["labels"].values()) == list(range(14))
    rows = tables[0]["meta_data"]
    count = int((1 - config["valid_ratio"]) * len(rows))
    torch.manual_seed(0)  # as s3prl does
    train, dev = random_split(rows, [count, len(rows) - count])
    found = Counter()
    for split, part in (("train", train), ("valid", dev), ("test", tables[1]["meta_data"])):
        for row in part:
            assert (folders / "er" / row["path"]).is_file()
            assert Path(row["path"]).stem.startswith(row["label"].replace("_", "-"))
            found[row["label"], split] += 1
    assert found == expected()


SETS = ("train", "test")


def test_the_config_starts_with_its_command_and_has_the_steps(folders):
    text = (folders / "er" / "config.yaml").read_text()
    assert text.startswith(
        f"# maeast-run-downstream -m train -u mae_ast -d emotion -c {folders / 'er' / 'config.yaml'}"
    )
    runner = read_config(folders / "er" / "config.yaml")["runner"]
    assert (runner["total_steps"], runner["log_step"], runner["eval_step"], runner["save_step"]) == (50, 2, 5, 5)


def test_a_batch_is_never_larger_than_the_training_split(table, tmp_path):
    for task in HEADS:
        noise = ["--noise", "made"] if task == "ks" else []
        assert main([task, str(table()), "-o", str(tmp_path / task), *noise]) == 0
        data = read_config(tmp_path / task / "config.yaml")["downstream_expert"]["datarc"]
        assert data.get("train_batch_size", data.get("batch_size")) == 2
        check_superb_task(HEADS[task], read_config(tmp_path / task / "config.yaml"), "train")


def test_clips_that_cannot_be_used_are_left_out_and_listed(table, tmp_path, capsys):
    good = [(f"{label}-{split}.wav", label, split) for label in ("a", "b") for split in SPLITS]
    labels = table([*good, ("short.wav", "a", "train"), ("broken.wav", "b", "test")], short=tone(RATE)[:10])
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    out = tmp_path / "sid"
    assert main(["sid", str(labels), "-o", str(out)]) == 3
    errors = (out / "errors.tsv").read_text()
    assert "short.wav\t10 samples; expected at least 400 (25 ms)" in errors
    assert "broken.wav\tnot audio that can be decoded" in errors
    assert "2 clips left out" in capsys.readouterr().out
    check_superb_task("voxceleb1", read_config(out / "config.yaml"), "train")


def test_nothing_is_written_if_a_class_has_no_usable_clip(table, tmp_path, capsys):
    labels = table(yes_train=tone(RATE)[:10])
    said = failing(capsys, "sid", labels, "-o", tmp_path / "sid")
    assert "no clip of class 'yes' can be used" in said
    assert "10 samples" in said
    assert not [path for path in tmp_path.iterdir() if "sid" in path.name]


def test_the_error_for_ks_without_noise_names_the_other_heads(table, tmp_path, capsys):
    said = failing(capsys, "ks", table(), "-o", tmp_path / "ks")
    assert "--noise" in said
    assert "superb-data sid" in said
    assert not (tmp_path / "ks").exists()


def test_the_error_for_ks_without_its_words_names_the_other_heads(table, tmp_path, capsys):
    rows = [(f"{label}-{split}.wav", label, split) for label in ("dog", "cat") for split in SPLITS]
    said = failing(capsys, "ks", table(rows), "-o", tmp_path / "ks", "--noise", "made")
    assert "ten words" in said
    assert "sid and er take any labels" in said


def test_ks_takes_recorded_noise_of_two_seconds(table, tmp_path, capsys):
    write(tmp_path / "fan.wav", 0.1 * tone(8000, 1.9), 8000)
    command = ["ks", table(), "-o", tmp_path / "ks", "--noise", tmp_path / "fan.wav"]
    assert "1.90 s of noise" in failing(capsys, *command)
    write(tmp_path / "fan.wav", 0.1 * tone(8000, 2.5), 8000)
    assert main([str(part) for part in command]) == 0
    assert len(list((tmp_path / "ks" / "test" / "_silence_").iterdir())) == 1
    check_superb_task("speech_commands", read_config(tmp_path / "ks" / "config.yaml"), "train")


def test_sid_refuses_more_labels_than_its_head_has_classes(table, tmp_path, capsys):
    clip = write(tmp_path / "clip.wav", tone(RATE), RATE)
    names = [tmp_path / f"{i}.wav" for i in range(1254)]
    for name in names:
        name.hardlink_to(clip)
    splits = ["train"] * 1252 + ["valid", "test"]
    rows = [f"{name},{min(i, 1251)},{split}\n" for i, (name, split) in enumerate(zip(names, splits, strict=True))]
    labels = tmp_path / "many.csv"
    labels.write_text("path,label,split\n" + "".join(rows))
    assert "1252 labels; s3prl's SID has 1251 classes" in failing(capsys, "sid", labels, "-o", tmp_path / "sid")


def test_hostile_labels_and_names_stay_in_the_folder(table, tmp_path):
    rows = [(f"..- x_nohash_{i} '{split}.wav", f"../../l{i}", split) for i in range(2) for split in SPLITS]
    labels = table([*rows, *((f"yes {split}.wav", "yes", split) for split in SPLITS)])
    before = set(tmp_path.iterdir())
    for task in HEADS:
        assert main([task, str(labels), "-o", str(tmp_path / task), *(["--noise", "made"] * (task == "ks"))]) == 0
        check_superb_task(HEADS[task], read_config(tmp_path / task / "config.yaml"), "train")
    assert {path.name for path in set(tmp_path.iterdir()) - before} == set(HEADS)


def test_a_folder_is_replaced_by_force_only_and_only_if_the_command_made_it(table, tmp_path, capsys):
    labels = table()
    out = tmp_path / "er"
    assert main(["er", str(labels), "-o", str(out)]) == 0
    assert "--force" in failing(capsys, "er", labels, "-o", out)
    assert main(["er", str(labels), "-o", str(out), "--force"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "not made by superb-data" in failing(capsys, "er", labels, "-o", tmp_path / "mine", "--force")
    assert (tmp_path / "mine" / "thesis.txt").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["er", "LABELS", "-o", "x", "--noise", "made"], "--noise is for ks"),
        (["er", "LABELS", "-o", "x", "--steps", "0"], "--steps must be at least 1"),
        (["er", "LABELS", "-o", "no/such/place"], "no such folder"),
        (["er", "nothing.csv", "-o", "x"], "nothing.csv: no such file"),
        (["asr", "LABELS", "-o", "x"], "invalid choice: 'asr'"),
    ],
)
def test_wrong_usage_is_one_line(table, tmp_path, capsys, monkeypatch, options, said):
    labels = table()
    monkeypatch.chdir(tmp_path)
    assert said in failing(capsys, *(labels if part == "LABELS" else part for part in options))
    assert not (tmp_path / "x").exists()

"""HEAR's evaluation kit over folders of tasks."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hear_tasks import with_small_head, write_events, write_labels
from slugify import slugify
from sounds import tone, write

import hear_api
from hear_api.heareval import command as kit
from hear_api.heareval.runs import Processes
from hear_api.tasks import create
from maeast_upstream.cli import run

pytestmark = pytest.mark.slow

SCENE, EVENT = "small-v1-full", "mixed-v1-full"


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """A scene task, an event task, one with a missing recording, and a stray file."""
    folder = tmp_path_factory.mktemp("hear")
    labels = write_labels(folder)
    events = write_events(folder / "mixed", labels, {"train": 10, "valid": 3, "test": 3})
    for table, name in ((labels, SCENE), (events, EVENT)):
        assert run(create.main, [str(table), "-o", str(folder / "TASKS" / name)]) == 0
    for name in (SCENE, EVENT):
        with_small_head(folder / "TASKS" / name)
    shutil.copytree(folder / "TASKS" / SCENE, folder / "TASKS" / "broken-v1-full")
    next((folder / "TASKS" / "broken-v1-full" / "16000" / "test").iterdir()).unlink()
    (folder / "TASKS" / "notes.txt").write_text("a stray file")
    return folder / "TASKS"


def hear(folder, out, *options):
    """The command, as a user starts it, from another folder."""
    command = [sys.executable, "-m", "maeast_upstream.cli", "hear", "--tasks-dir", str(folder), "--out", str(out)]
    done = subprocess.run([*command, *options], cwd=out.parent, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.hear
def test_the_kit_scores_what_it_can_and_names_what_it_cannot(task_folder, tmp_path, capsys):
    pytest.importorskip("heareval")
    out = tmp_path / "out"
    status, said, errors = hear(task_folder, out, "--grid-points", "1")
    assert status == 3, errors
    assert "notes.txt: a file" in errors
    assert "broken-v1-full" in errors
    assert "no such recording" in errors
    assert "Traceback" not in errors + said
    with (out / "scores.csv").open(newline="") as file:
        scores = {(row["task"], row["metric"]): float(row["score"]) for row in csv.DictReader(file)}
    assert set(scores) == {
        (SCENE, "top1_acc"),
        (SCENE, "mAP"),
        (EVENT, "event_onset_200ms_fms"),
        (EVENT, "segment_1s_er"),
    }
    assert scores[SCENE, "top1_acc"] >= 60  # of four classes; chance is 25
    assert 0 < scores[EVENT, "event_onset_200ms_fms"] <= 100
    assert SCENE in said
    assert (out / "scores.png").stat().st_size > 5000
    results = next(out.glob(f"*/embeddings/*/{SCENE}"))
    assert not list(results.glob("lightning_logs/*/checkpoints"))  # 40 MB each with the kit's own heads
    before = (results / "test.predicted-scores.json").stat().st_mtime_ns
    options = ["--tasks-dir", str(task_folder), "--out", str(out), "--grid-points", "1"]
    assert run(kit.main, options) == 3
    again = capsys.readouterr()
    assert again.out == said
    assert again.err.count("finished before") == 2
    assert re.search(r"^2 tasks, up to \d+ at a time, in .*; their logs are in ", again.err, re.MULTILINE)
    assert (results / "test.predicted-scores.json").stat().st_mtime_ns == before


@pytest.fixture
def small_task(tmp_path):
    """A task of three recordings."""
    for number in range(3):
        write(tmp_path / f"{number}.wav", tone(16000, 0.2), 16000)
    (tmp_path / "labels.csv").write_text("path,label,split\n0.wav,a,train\n1.wav,b,valid\n2.wav,a,test\n")
    assert run(create.main, [str(tmp_path / "labels.csv"), "-o", str(tmp_path / "TASKS" / "small")]) == 0
    return tmp_path / "TASKS"


class FakeKit:
    """Stands for the processes: writes the files by which the kit says that it is done."""

    def __init__(self, monkeypatch, fail=()):
        self.calls = []
        self.fail = set(fail)
        monkeypatch.setattr(Processes, "run", lambda processes, *call: self.run(*call))
        monkeypatch.setattr(kit, "provide_kit", lambda install: None)

    @property
    def parts(self):
        return [part for part, *_ in self.calls]

    def run(self, command, log, environment):
        part, arguments = command[3], command[4:]
        self.calls.append((part, arguments, environment))
        log.write_text(f"working\nValueError: {part} did not like it\n")
        if part in self.fail:
            return 1
        if part == "embeddings":
            options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
            names = "".join(
                f"-{slugify(k)}={slugify(str(v))}" for k, v in json.loads(options["--model-options"]).items()
            )
            results = Path(options["--embeddings-dir"]) / f"hear_api{names}" / options["--task"]
            results.mkdir(parents=True)
            (results / ".done.embeddings").touch()
        else:
            scores = {"test_top1_acc": 0.5, "test_mAP": 0.25}
            results = Path(arguments[0])
            (results / "test.predicted-scores.json").write_text(json.dumps({"test": scores}))
            (results / "prediction-done.json").write_text("{}")
        return 0


@pytest.fixture
def command(small_task, tmp_path):
    """A function that runs the command over the small task, in this process."""

    def start(*options):
        return run(kit.main, ["--tasks-dir", str(small_task), "--out", str(tmp_path / "out"), *options])

    return start


def test_finished_work_is_not_repeated(command, monkeypatch):
    fake = FakeKit(monkeypatch)
    assert command() == 0
    assert fake.parts == ["embeddings", "predictions"]
    assert command() == 0
    assert len(fake.calls) == 2


def test_another_grid_trains_again_on_the_same_embeddings(command, monkeypatch):
    fake = FakeKit(monkeypatch)
    assert command() == 0
    assert command("--grid-points", "2", "--grid", "fast") == 0
    assert fake.parts == ["embeddings", "predictions", "predictions"]
    assert fake.calls[-1][1][1:] == ["--grid", "fast", "--grid-points", "2"]


def test_a_changed_task_is_embedded_again(command, monkeypatch, small_task):
    fake = FakeKit(monkeypatch)
    assert command() == 0
    write(small_task / "small" / "16000" / "train" / "0.wav", tone(16000, 0.2, hz=880), 16000)
    os.utime(small_task / "small" / "16000" / "train" / "0.wav", (1, 1))
    assert command() == 0
    assert fake.parts == ["embeddings", "predictions"] * 2


def test_a_stopped_run_trains_again_but_does_not_embed_again(command, monkeypatch):
    fake = FakeKit(monkeypatch, fail=["predictions"])
    assert command() == 1
    fake.fail = set()
    assert command() == 0
    assert fake.parts == ["embeddings", "predictions", "predictions"]


def test_other_weights_and_other_options_have_other_folders(command, monkeypatch, make_encoder, tmp_path):
    fake = FakeKit(monkeypatch)
    make_encoder("frame").save_pretrained(tmp_path / "other")
    assert command() == 0
    assert command("--checkpoint", str(tmp_path / "other")) == 0
    assert command("--hop-ms", "160") == 0
    folders = {Path(arguments[0]).parents[2] for part, arguments, _ in fake.calls if part == "predictions"}
    assert len(folders) == 3
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        models = {row["model"] for row in csv.DictReader(file)}
    assert models == {folder.name for folder in folders}
    assert {name.rpartition("-")[0] for name in models} == {"bundled", "other"}


def test_retrained_weights_of_the_same_name_are_evaluated_again(command, monkeypatch, make_encoder, tmp_path):
    fake = FakeKit(monkeypatch)
    encoder = make_encoder("frame")
    encoder.save_pretrained(tmp_path / "run")
    assert command("--checkpoint", str(tmp_path / "run")) == 0
    encoder.network.encoder_mask.data += 1
    encoder.save_pretrained(tmp_path / "run")
    assert command("--checkpoint", str(tmp_path / "run")) == 0
    assert fake.parts == ["embeddings", "predictions"] * 2


def test_options_reach_the_kit(command, monkeypatch, make_encoder, tmp_path):
    fake = FakeKit(monkeypatch)
    make_encoder("frame").save_pretrained(tmp_path / "other")
    options = ["--checkpoint", str(tmp_path / "other"), "--layer", "2", "--pool", "mean_std", "--precision", "bf16"]
    assert command(*options, "--threads", "3", "--device", "cpu") == 0
    _, arguments, environment = fake.calls[0]
    assert arguments[:3] == ["hear_api", "--model", str(tmp_path / "other")]
    assert json.loads(arguments[-1]) == {"layer": 2, "pool": "mean_std", "precision": "bf16"}
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_embeddings_use_a_share_of_the_processors_and_heads_use_one(command, monkeypatch):
    fake = FakeKit(monkeypatch)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert command("--jobs", "2") == 0
    threads = [environment["OMP_NUM_THREADS"] for _, _, environment in fake.calls]
    assert threads == ["3", "1"]


def test_the_native_hop_reaches_the_model(command, monkeypatch):
    fake = FakeKit(monkeypatch)
    assert command("--hop-ms", "native") == 0
    options = json.loads(fake.calls[0][1][-1])
    assert hear_api.load_model(**options).steps.hop_ms is None
    assert command() == 0
    assert fake.parts == ["embeddings", "predictions"] * 2


def test_a_task_named_all_is_refused(small_task, tmp_path, command, monkeypatch, capsys):
    """heareval's --task all means every task."""
    fake = FakeKit(monkeypatch)
    labels = str(tmp_path / "labels.csv")
    assert run(create.main, [labels, "-o", str(tmp_path / "all")]) == 1
    assert "all: to heareval this name means every task" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()
    shutil.copytree(small_task / "small", small_task / "all")
    assert command() == 3
    assert "all: to heareval this name means every task" in capsys.readouterr().err
    assert len(fake.calls) == 2


def test_only_the_process_that_loads_no_model_may_unpickle_anything(command, monkeypatch):
    fake = FakeKit(monkeypatch)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert command() == 0
    environments = {part: environment for part, _, environment in fake.calls}
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in environments["embeddings"]
    assert environments["predictions"]["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_the_error_of_a_failing_runner_is_the_last_line_of_its_log(command, monkeypatch, capsys):
    FakeKit(monkeypatch, fail=["embeddings"])
    assert command() == 1
    said = capsys.readouterr().err
    assert "heareval's embeddings ended with exit status 1: ValueError: embeddings did not like it (see" in said
    assert "no task ran to its end" in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--checkpoint", "nothing"], "no checkpoint 'nothing'"),
        (["--grid-points", "0"], "--grid-points must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--grid", "slow"], "invalid choice"),
        (["--hop-ms", "fine"], "--hop-ms must be native or a number"),
        (["--hop-ms", "50"], "time steps are 160 or 40 ms apart"),
        (["--layer", "nope"], "layer must be a number from 1, last, mean or all, got 'nope'"),
        (["--layer", "13"], "layers are counted from 1 to 12"),
        (["--precision", "int4"], "precision must be one of"),
    ],
)
def test_wrong_usage_is_one_line(command, monkeypatch, options, reason, capsys):
    fake = FakeKit(monkeypatch)
    assert command(*options) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not fake.calls


def test_a_folder_without_a_usable_task_is_refused(tmp_path, monkeypatch, capsys):
    fake = FakeKit(monkeypatch)
    (tmp_path / "TASKS").mkdir()
    options = ["--tasks-dir", str(tmp_path / "TASKS"), "--out", str(tmp_path / "out")]
    assert run(kit.main, options) == 1
    assert "empty folder" in capsys.readouterr().err
    (tmp_path / "TASKS" / "x.txt").touch()
    assert run(kit.main, options) == 1
    assert "no task that can be run" in capsys.readouterr().err
    for number in range(20):  # the wrong folder was given
        (tmp_path / "TASKS" / f"{number}.wav").touch()
    assert run(kit.main, options) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7
    assert lines[5] == "21 such errors in all; the first 5 are above"
    assert not fake.calls


@pytest.mark.parametrize("name", ["heareval", "pytorch_lightning"])
def test_the_error_for_a_missing_kit_names_the_command_that_installs_it(monkeypatch, tmp_path, capsys, name):
    find = kit.importlib.util.find_spec
    monkeypatch.setattr(kit.importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))
    assert run(kit.main, ["--tasks-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert {"heareval": "--install", "pytorch_lightning": "[hear]'"}[name] in said


def test_heareval_is_installed_only_on_request(monkeypatch):
    find = kit.importlib.util.find_spec
    monkeypatch.setattr(kit.importlib.util, "find_spec", lambda name: None if name == "heareval" else find(name))
    commands = []

    def pip(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(kit.subprocess, "run", pip)
    assert run(kit.main, ["--install"]) == 0
    assert commands == [[sys.executable, "-m", "pip", "install", "--no-deps", "heareval==2021.1.3"]]

"""Every task of SUPERB runs through s3prl itself on real clips, from training to a test score."""

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from superb_sets import make

from maeast_upstream.integrations.s3prl.layouts import ks_percent
from maeast_upstream.integrations.s3prl.tasks import TASKS
from maeast_upstream.run_downstream import main

pytest.importorskip("s3prl")
pytestmark = [pytest.mark.s3prl, pytest.mark.slow]

OWN = ("speech_commands", "voxceleb1", "emotion")
"""Heads that `maeast superb-data` serves."""
FRAME_ONLY = {"sv_voxceleb1", "ctc", "separation_stft2"}
CPU = ["--device", "cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that makes a task's data once and runs s3prl on it, in the experiment's folder ``run``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def start(task, *options, mode="train", steps=2):
        path = tmp_path / f"{task}.yaml"
        if not path.is_file():
            path.write_text(yaml.safe_dump(make(task, tmp_path / task)))
        config = yaml.safe_load(path.read_text())
        config["runner"]["total_steps"] = steps
        path.write_text(yaml.safe_dump(config))
        return main(["-m", mode, "-u", "mae_ast", "-d", task, "-c", str(path), "-p", "run", *CPU, *options])

    return start


def states(name):
    return torch.load(Path("run") / name, weights_only=False)


def scores(split):
    """What the log says about a split."""
    lines = Path("run/log.log").read_text().splitlines()
    return [float(line.split(": ")[1]) for line in lines if line.startswith(f"{split} at step")]


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "-f"])
@pytest.mark.parametrize("task", OWN)
def test_own_clips_train_resume_and_are_evaluated(run, task, frozen):
    options = [] if frozen else ["-f"]
    assert run(task, *options) == 0
    first = states("states-2.ckpt")
    assert ("Upstream" in first) is not frozen
    # -o, since a resumed run takes its config from the checkpoint
    assert run(task, "-e", "run", "-o", "config.runner.total_steps=4", steps=4) == 0
    later = states("states-4.ckpt")
    assert later["Step"] == 4
    assert not torch.equal(first["Downstream"]["projector.weight"], later["Downstream"]["projector.weight"])
    if not frozen:
        moved = [name for name, value in first["Upstream"].items() if not torch.equal(value, later["Upstream"][name])]
        assert any("encoder.blocks.0." in name for name in moved)
        assert not any("mean" in name or "std" in name for name in moved)
    before = len(scores("test"))
    assert main(["-m", "evaluate", "-e", "run/states-4.ckpt", "-t", "test", *CPU]) == 0
    assert len(scores("test")) == before + 1
    assert scores("test")[-1] == scores("test")[-2]  # the weights that the last training step was scored with


@pytest.fixture
def two_jobs(monkeypatch):
    """s3prl measures the clips of sv_voxceleb1 in two processes, not in twelve that each import torch."""
    from maeast_upstream import superb  # noqa: F401  # the repairs, without which the data sets do not import

    dataset = importlib.import_module("s3prl.downstream.sv_voxceleb1.dataset")
    parallel = dataset.Parallel
    monkeypatch.setattr(dataset, "Parallel", lambda n_jobs: parallel(n_jobs=2))


@pytest.mark.usefixtures("two_jobs")
@pytest.mark.parametrize("task", sorted(set(TASKS) - set(OWN)))
def test_the_other_tasks_train_and_are_evaluated(run, task, write_published):
    if task == "separation_stft2" and importlib.util.find_spec("asteroid") is None:
        pytest.skip("needs asteroid")
    checkpoint = ["-k", str(write_published("frame"))] if task in FRAME_ONLY else []
    assert run(task, *checkpoint) == 0
    trained = states("states-2.ckpt")
    assert trained["Step"] == 2
    assert all(value.isfinite().all() for value in trained["Downstream"].values() if value.is_floating_point())
    assert main(["-m", "evaluate", "-e", "run/states-2.ckpt", "-t", "test", *CPU]) == 0


def test_s3prl_finds_the_splits_that_superb_data_was_given(run, tmp_path):
    from maeast_upstream import superb  # noqa: F401  # the repairs, without which the experts do not import

    config = make("emotion", tmp_path / "er")["downstream_expert"]
    (tmp_path / "run").mkdir()
    expert = importlib.import_module("s3prl.downstream.emotion.expert").DownstreamExpert(8, config, "run")
    rows = expert.train_dataset.dataset.meta_data
    table = (tmp_path / "er" / "er.csv").read_text().splitlines()
    split_of = {Path(line.split(",")[0]).stem.replace("_", "-").replace("+", "-"): line.split(",")[2] for line in table}
    for split, part in (("train", expert.train_dataset), ("valid", expert.dev_dataset)):
        names = [Path(rows[index]["path"]).stem.rsplit("-", 1)[0] for index in part.indices]
        assert {split_of[name] for name in names} == {split}
    config = make("speech_commands", tmp_path / "ks")["downstream_expert"]["datarc"]
    split_dataset = importlib.import_module("s3prl.downstream.speech_commands.expert").split_dataset
    train, dev = split_dataset(config["speech_commands_root"])
    assert len(train) == sum(
        1 for line in (tmp_path / "ks" / "ks.csv").read_text().splitlines() if line.endswith("train")
    )
    assert all(ks_percent(path.name.split("_nohash_")[0]) < 10 for _, path in dev)

"""Weights & Biases and MLflow, whose classes in Accelerate are replaced by ones that record what they get."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import accelerate.tracking
import pytest

from pretrain.trainer import Trainer
from pretrain.training.run_folder import read_metrics
from pretrain.training.trackers import Trackers


class Recorder:
    """What Accelerate's trackers have in common; every start is another run unless it gets the id of one."""

    starts = ()

    def __init__(self, project, **options):
        self.options, self.values = options, []

    def start(self):
        known = self.options.get("id") or self.options.get("run_id")
        run = known or f"run{len(type(self).starts)}"
        self.tracker = SimpleNamespace(id=run, info=SimpleNamespace(run_id=run))
        type(self).starts = (*type(self).starts, self)

    def log(self, values, step):
        self.values.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture(params=["wandb", "mlflow"])
def recorder(request, monkeypatch):
    class Fresh(Recorder):
        pass

    name = {"wandb": "WandBTracker", "mlflow": "MLflowTracker"}[request.param]
    monkeypatch.setattr(accelerate.tracking, name, Fresh)
    return request.param, Fresh


def test_a_tracker_gets_what_the_log_gets_and_continues_its_run(recipe, recorder):
    tracker, recorded = recorder
    recipe = dataclasses.replace(recipe, tracker=tracker, tensorboard=False)
    Trainer(dataclasses.replace(recipe, max_minutes=1e-9)).train()
    Trainer(recipe).train()
    first, second = recorded.starts
    assert first.tracker.id == second.tracker.id == "run0"
    assert first.finished
    values = [{"step": step, **values} for step, values in second.values]
    assert values == read_metrics(Path(recipe.out))
    assert json.loads((Path(recipe.out) / "tracker.json").read_text()) == {tracker: "run0"}


def test_a_tracker_that_cannot_start_is_one_line(tmp_path, recorder, monkeypatch):
    tracker, recorded = recorder

    def start(self):
        raise RuntimeError("no login\nat all")

    monkeypatch.setattr(recorded, "start", start)
    with pytest.raises(ValueError, match=r"no login at all.*--tracker none"):
        Trackers(tmp_path, 0, tensorboard=False, tracker=tracker)


def test_without_trackers_nothing_is_imported_or_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    trackers = Trackers(tmp_path, 0, tensorboard=False, tracker="none")
    trackers.log({"loss": 1.0}, 1)
    trackers.close()
    assert not trackers.show_pictures
    assert not list(tmp_path.iterdir())

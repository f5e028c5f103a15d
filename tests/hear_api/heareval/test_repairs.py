"""Repairs around heareval."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from hear_api.heareval import repairs


@pytest.fixture
def without_tensorflow(monkeypatch):
    find = repairs.importlib.util.find_spec
    monkeypatch.setattr(repairs.importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name))
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    yield
    sys.modules.pop("tensorflow", None)


def test_the_stub_is_what_hears_tools_ask_of_tensorflow(without_tensorflow):
    repairs.stub_tensorflow()
    import tensorflow

    assert not isinstance(object(), tensorflow.Module)
    assert tensorflow.test.is_gpu_available(cuda_only=False, min_cuda_compute_capability=None)
    assert tensorflow.__spec__.name == "tensorflow"


def test_a_real_tensorflow_is_left_alone(monkeypatch):
    real = ModuleType("tensorflow")
    monkeypatch.setitem(sys.modules, "tensorflow", real)
    repairs.stub_tensorflow()
    assert sys.modules["tensorflow"] is real


@pytest.mark.parametrize("name", ["NVIDIA H100", b"NVIDIA H100"])
def test_a_device_name_is_bytes_whatever_the_library_gives(monkeypatch, name):
    library = SimpleNamespace(nvmlDeviceGetName=lambda handle: name)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    repairs.nvml_names_as_bytes()
    assert library.nvmlDeviceGetName(0).decode() == "NVIDIA H100"


@pytest.mark.slow
def test_the_epoch_can_be_set_as_the_kit_does():
    code = """
import pytorch_lightning as pl
from hear_api.heareval import repairs
repairs.settable_epoch()
trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
trainer.fit_loop.current_epoch = 7
assert trainer.current_epoch == 7, trainer.current_epoch
"""
    pytest.importorskip("pytorch_lightning")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_gpus_become_accelerator_and_devices():
    class Two:
        def __init__(self, *, accelerator, devices="auto", logger):
            self.asked = accelerator, devices, logger

    assert repairs.accepting_gpus(Two)(gpus=[0], logger="csv").asked == ("gpu", [0], "csv")
    assert repairs.accepting_gpus(Two)(gpus=None, logger="csv").asked == ("cpu", "auto", "csv")


def test_the_outputs_of_an_epoch_reach_the_old_hook_once():
    class Model:
        def validation_step(self, batch, batch_idx):
            return batch + batch_idx

        def validation_epoch_end(self, outputs):
            self.seen = outputs

    repairs.collect_outputs(Model, "validation_step", "validation_epoch_end", "on_validation_epoch_end")
    model = Model()
    assert not hasattr(model, "validation_epoch_end")
    for first in (10, 20):
        assert [model.validation_step(first, number) for number in range(2)] == [first, first + 1]
        model.on_validation_epoch_end()
        assert model.seen == [first, first + 1]

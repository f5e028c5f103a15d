"""Lets heareval 2021.1.3 run with today's libraries, without changes to its files.

Each function repairs one incompatibility and does nothing where there is none.
"""

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

PREDICTIONS_ENVIRONMENT: Mapping[str, str] = {
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Environment variables of the process that trains heads, never of one that loads a model.

The process loads checkpoints that it wrote itself, which hold classes of the kit. The kit requires deterministic
cuBLAS, which needs such a workspace.
"""


def stub_tensorflow() -> None:
    """Install a stub named tensorflow if there is none: HEAR's tools import it only to check the class of a model."""
    if "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is not None:
        return
    stub = types.ModuleType("tensorflow", "A stub that HEAR's tools import instead of TensorFlow.")
    stub.__spec__ = ModuleSpec("tensorflow", None)  # Lightning's find_spec fails without it
    module = types.SimpleNamespace(is_gpu_available=lambda *_, **__: True)
    vars(stub).update(Module=type("Module", (), {}), test=module)
    sys.modules["tensorflow"] = stub


def nvml_names_as_bytes() -> None:
    """Return the name of a GPU as bytes, which the kit decodes; nvidia-ml-py from 11.5 on returns a string."""
    try:
        import pynvml
    except ImportError:
        return
    get_name = pynvml.nvmlDeviceGetName

    @functools.wraps(get_name)
    def name(handle: Any) -> bytes:
        text = get_name(handle)
        return text.encode() if isinstance(text, str) else text

    pynvml.nvmlDeviceGetName = name


def settable_epoch() -> None:
    """Let ``fit_loop.current_epoch`` be set, as the kit does before a test; it has no effect from Lightning 1.6 on."""
    loops: Any = importlib.import_module("pytorch_lightning.loops")
    fit_loop = getattr(loops, "FitLoop", None) or loops._FitLoop

    def get_epoch(self: Any) -> int:
        return int(self.epoch_progress.current.completed)

    def set_epoch(self: Any, epoch: int) -> None:
        self.epoch_progress.current.completed = epoch

    fit_loop.current_epoch = property(get_epoch, set_epoch)


def lightning_2() -> None:
    """Restore ``Trainer(gpus=...)`` and the hooks that get all outputs of an epoch, removed in Lightning 2."""
    lightning: Any = importlib.import_module("pytorch_lightning")
    if int(lightning.__version__.split(".")[0]) < 2:
        return
    lightning.Trainer = accepting_gpus(lightning.Trainer)
    from heareval.predictions.task_predictions import AbstractPredictionModel

    for name, step in (("validation", "validation_step"), ("test", "test_step")):
        collect_outputs(AbstractPredictionModel, step, f"{name}_epoch_end", f"on_{name}_epoch_end")


def accepting_gpus(trainer: Any) -> Any:
    """A subclass of a Trainer class that accepts ``gpus``: None, or a list of devices."""

    class Trainer(trainer):  # type: ignore[misc]
        def __init__(self, *args: Any, gpus: list[int] | None = None, **options: Any) -> None:
            device = {"accelerator": "gpu", "devices": gpus} if gpus else {"accelerator": "cpu"}
            super().__init__(*args, **device, **options)

    return Trainer


def collect_outputs(model: Any, step_name: str, old_name: str, new_name: str) -> None:
    """Replace a hook that Lightning 2 refuses by one that it calls.

    Args:
        model: the class of the model.
        step_name: the method whose outputs are collected over an epoch.
        old_name: the hook that gets these outputs, which is removed.
        new_name: the hook that Lightning 2 calls instead.
    """
    step: Callable[..., Any] = getattr(model, step_name)
    at_end: Callable[..., Any] = getattr(model, old_name)
    attribute = f"_{step_name}_outputs"

    @functools.wraps(step)
    def collecting(self: Any, batch: Any, batch_idx: int) -> Any:
        output = step(self, batch, batch_idx)
        vars(self).setdefault(attribute, []).append(output)
        return output

    def hook(self: Any) -> None:
        at_end(self, vars(self).pop(attribute, []))

    setattr(model, step_name, collecting)
    setattr(model, new_name, hook)
    delattr(model, old_name)

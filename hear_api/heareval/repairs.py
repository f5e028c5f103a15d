"""What heareval 2021.1.3 needs to run beside today's libraries, done from outside: its own files stay as they are.

Each function mends one breakage and does nothing where there is none.
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
"""Of the process that trains heads: it loads the checkpoints that it wrote itself, which hold classes of the kit; and
cuBLAS is deterministic, as the kit wants it, with such a workspace only. Never of a process that loads a model."""


def stub_tensorflow() -> None:
    """A module named tensorflow where there is none: HEAR's tools import it, but only to ask for a model's class."""
    if "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is not None:
        return
    stub = types.ModuleType("tensorflow", "Stands in for TensorFlow in HEAR's tools.")
    stub.__spec__ = ModuleSpec("tensorflow", None)  # else Lightning's search for it fails
    module = types.SimpleNamespace(is_gpu_available=lambda *_, **__: True)
    vars(stub).update(Module=type("Module", (), {}), test=module)
    sys.modules["tensorflow"] = stub


def nvml_names_as_bytes() -> None:
    """nvidia-ml-py from 11.5 on gives a device's name as text; the kit decodes bytes."""
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
    """``fit_loop.current_epoch = e``, which the kit does before a test, sets nothing from Lightning 1.6 on."""
    loops: Any = importlib.import_module("pytorch_lightning.loops")
    fit_loop = getattr(loops, "FitLoop", None) or loops._FitLoop

    def get(self: Any) -> int:
        return int(self.epoch_progress.current.completed)

    def put(self: Any, epoch: int) -> None:
        self.epoch_progress.current.completed = epoch

    fit_loop.current_epoch = property(get, put)


def lightning_2() -> None:
    """Trainer(gpus=...), and the hooks that get all outputs of an epoch, are gone from Lightning 2 on."""
    lightning: Any = importlib.import_module("pytorch_lightning")
    if int(lightning.__version__.split(".")[0]) < 2:
        return
    lightning.Trainer = accepting_gpus(lightning.Trainer)
    from heareval.predictions.task_predictions import AbstractPredictionModel

    for name, step in (("validation", "validation_step"), ("test", "test_step")):
        collect_outputs(AbstractPredictionModel, step, f"{name}_epoch_end", f"on_{name}_epoch_end")


def accepting_gpus(trainer: Any) -> Any:
    """A Trainer class that takes ``gpus``: None, or a list of devices."""

    class Trainer(trainer):  # type: ignore[misc]
        def __init__(self, *args: Any, gpus: list[int] | None = None, **options: Any) -> None:
            where = {"accelerator": "gpu", "devices": gpus} if gpus else {"accelerator": "cpu"}
            super().__init__(*args, **where, **options)

    return Trainer


def collect_outputs(model: Any, step_name: str, old_name: str, new_name: str) -> None:
    """Give ``model``, a class, the hook that Lightning 2 calls in place of the one that it refuses."""
    step: Callable[..., Any] = getattr(model, step_name)
    at_end: Callable[..., Any] = getattr(model, old_name)
    kept = f"_{step_name}_outputs"

    @functools.wraps(step)
    def collecting(self: Any, batch: Any, batch_idx: int) -> Any:
        output = step(self, batch, batch_idx)
        vars(self).setdefault(kept, []).append(output)
        return output

    def hook(self: Any) -> None:
        at_end(self, vars(self).pop(kept, []))

    setattr(model, step_name, collecting)
    setattr(model, new_name, hook)
    delattr(model, old_name)

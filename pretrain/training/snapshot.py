"""The state that a run resumes from: collected from all its processes, and restored."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maeast_upstream.config import Normalisation
from pretrain.objective import TargetSizes
from pretrain.recipe import Recipe
from pretrain.training.build import build_objective
from pretrain.training.distributed import full
from pretrain.training.step import Updater


def snapshot(updater: Updater) -> dict[str, Any]:
    """Collect the state on the CPU; with fsdp all processes must call it."""
    average = updater.average
    return {
        "objective": {name: full(value).cpu() for name, value in updater.objective.state_dict().items()},
        "optimizer": whole(updater.optimizer.state_dict()),
        "scaler": updater.scaler.state_dict(),
        "average": None if average is None else {"updates": average.updates, "values": whole(average.values)},
        "random": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if updater.device.type == "cuda" else [],
        },
    }


ENTRIES: dict[str, type] = {
    "step": int,
    "best": float,
    "normalisation": dict,
    "objective": dict,
    "optimizer": dict,
    "scaler": dict,
    "random": dict,
}
"""What a saved state must hold to be restored."""


def check_state(state: Mapping[str, Any], recipe: Recipe, sizes: TargetSizes | None = None) -> None:
    """Raise ValueError unless a state that was read holds all that a run of this recipe restores."""
    for name, kind in ENTRIES.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"its entry {name} is missing, or no {kind.__name__}")
    Normalisation(**state["normalisation"])
    with torch.device("meta"):
        objective = build_objective(recipe, Normalisation(), sizes)
        expected = {name: value.shape for name, value in objective.state_dict().items()}
    averaged = state.get("average")
    if averaged is None:
        found = [(state["objective"], expected)]
    else:
        names = averaged["values"]
        found = [(state["objective"], expected), (names, {name: expected[f"network.{name}"] for name in names})]
    for tensors, shapes in found:
        for name, shape in shapes.items():
            if not isinstance(tensors.get(name), Tensor) or tensors[name].shape != shape:
                raise ValueError(f"its tensor {name} is missing, or has not the shape {tuple(shape)}")
    if missing := {"state", "param_groups"} - set(state["optimizer"]):
        raise ValueError(f"its optimizer has no {missing.pop()}")
    if not isinstance(state["random"].get("cpu"), Tensor):
        raise ValueError("it has no state of the random numbers")


def restore(updater: Updater, state: dict[str, Any]) -> None:
    """Restore what `snapshot` collected."""
    if updater.parallel.sharding == "fsdp":
        _restore_shares(updater, state)
    else:
        updater.objective.load_state_dict(state["objective"])
        updater.optimizer.load_state_dict(state["optimizer"])
        if updater.average is not None and state["average"] is not None:
            updater.average.load(state["average"]["values"], state["average"]["updates"])
    if updater.scaler.is_enabled():
        updater.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["random"]["cpu"])
    if updater.device.type == "cuda" and len(state["random"]["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["random"]["cuda"])


def whole(value: Any) -> Any:
    """Gather nested tensors and copy them to the CPU."""
    if isinstance(value, Tensor):
        return full(value).cpu()
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


def _restore_shares(updater: Updater, state: dict[str, Any]) -> None:
    """Give each process its share of the whole tensors, cut as the live weights are."""
    with torch.no_grad():
        for name, value in updater.objective.state_dict().items():
            value.copy_(_like(state["objective"][name], value))
    parameters = [p for group in updater.optimizer.param_groups for p in group["params"]]
    saved = state["optimizer"]
    moments = {
        number: {
            key: _like(value, parameters[number]) if value.dim() else value
            for key, value in saved["state"][number].items()
        }
        for number in saved["state"]
    }
    updater.optimizer.load_state_dict({**saved, "state": moments})
    if updater.average is not None and state["average"] is not None:
        values = state["average"]["values"]
        cut = {name: _like(values[name], value) for name, value in updater.average.values.items()}
        updater.average.load(cut, state["average"]["updates"])


def _like(value: Tensor, live: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(live, DTensor):
        return value
    return distribute_tensor(value.to(live.device), live.device_mesh, live.placements)

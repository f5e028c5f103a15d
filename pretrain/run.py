"""A run folder on disk: recipe, log, and the state that a run goes on from. Every file appears whole or not at all."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from maeast_upstream.settings import refuse_changes

STATE_NAME, LOG_NAME, RECIPE_NAME = "state.pt", "log.jsonl", "config.yaml"

CHANGEABLE = frozenset(
    {
        "out",
        "device",
        "compile",
        "log_every",
        "save_every",
        "max_minutes",
        "data.corpus",
        "data.packed",
        "data.workers",
        "optim.steps",
        "optim.warmup_steps",
        "optim.decay_steps",
    }
)
"""What may differ when a run is continued: the length of the schedule, where things lie, and how fast it goes."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``path``, then rename it; a killed run leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)


def write_recipe(run: Path, recipe: dict[str, Any]) -> None:
    """config.yaml, which ``--config`` reads again."""
    text = yaml.safe_dump(recipe, sort_keys=False)
    write_atomically(run / RECIPE_NAME, lambda part: part.write_text(text, encoding="utf-8"))


def write_state(run: Path, state: dict[str, Any]) -> None:
    """state.pt."""
    write_atomically(run / STATE_NAME, lambda part: torch.save(state, part))


def read_state(run: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What `write_state` wrote, or None in a new run folder.

    Raises:
        ValueError: the file is broken, or the run was begun with other settings.
    """
    path = run / STATE_NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        begun_with = state["recipe"]
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the state of a run, or a broken one; remove it to begin anew") from error
    refuse_changes(begun_with, recipe, run, "give another --out, or the same setting", CHANGEABLE)
    return state


def append_log(run: Path, line: dict[str, Any]) -> None:
    """One more line of log.jsonl."""
    with (run / LOG_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cut_log(run: Path, step: int) -> None:
    """Drop the lines past batch ``step``, which a killed run wrote after its last save and will write again."""
    path = run / LOG_NAME
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(text)["step"] <= step:
                kept.append(text)
        except ValueError:  # a line that was cut short
            continue
    write_atomically(path, lambda part: part.write_text("".join(kept), encoding="utf-8"))

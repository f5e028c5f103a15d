"""A run folder on disk: the recipe, the metrics, and the states that a run resumes from.

Every file appears whole or not at all.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from maeast_upstream.checkpoint.states import disk_errors, read_whole
from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig
from maeast_upstream.messages import shortened
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.storage.lock import ProcessLock
from maeast_upstream.storage.settings import flatten, refuse_changes
from maeast_upstream.storage.text import lines_of, open_lines
from pretrain.recipe import Recipe

logger = logging.getLogger(__name__)

STATES_NAME, METRICS_NAME, RECIPE_NAME, STATS_NAME = "states", "metrics.jsonl", "config.yaml", "stats.json"
BEST_NAME, LOCK_NAME = "best.pt", ".lock"

RENAMED_SETTINGS = {
    "data.short": "data.short_clips",
    "data.buckets": "data.length_buckets",
    "data.resident": "data.on_gpu",
    "losses.normalised_targets": "losses.normalize_targets",
    "optim.accumulate": "optim.accumulation_steps",
}
"""Today's names of settings in the runs that version 0.1 began."""

CHANGEABLE = frozenset(
    {
        "out",
        "labels",
        "teacher",
        "clusters",
        "device",
        "compile",
        "log_every",
        "save_every",
        "keep_last",
        "validate_every",
        "validate_batches",
        "probe",
        "probe_every",
        "tensorboard",
        "tracker",
        "max_minutes",
        "data.corpus",
        "data.packed",
        "data.validation",
        "data.workers",
        "data.on_gpu",
        "data.shuffle_clips",
        "data.max_bad_share",
        "optim.steps",
        "optim.warmup_steps",
        "optim.decay_steps",
        "optim.accumulation_steps",
    }
)
"""Settings that may differ when a run is continued: the length of the schedule, paths, logging and speed."""


def lock(run: Path) -> ProcessLock:
    """Make and lock a run folder, so that only one process writes to it; ValueError if another one holds the lock."""
    run.mkdir(parents=True, exist_ok=True)
    refusal = f"{run}: another process is training in this folder; wait for it, or give another --out"
    return ProcessLock(run / LOCK_NAME, refusal)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears as ``path`` when it is whole; parts that a killed process left are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(".*.part*"):
        if leftover.is_file():
            leftover.unlink()
    with replacing(path) as part, part.open("wb") as file:
        yield file


def write_recipe(run: Path, recipe: dict[str, Any]) -> None:
    """Write config.yaml, which ``--config`` can read."""
    text = yaml.safe_dump(recipe, sort_keys=False)
    with _writing(run / RECIPE_NAME) as file:
        file.write(text.encode())


def states(run: Path) -> list[Path]:
    """The states of the last saves, oldest first."""
    return sorted(path for path in (run / STATES_NAME).glob("*.pt") if path.stem.isdecimal())


def write_state(run: Path, state: dict[str, Any], keep: int) -> None:
    """Write a state, named by its batch, and remove all but the last ``keep`` states.

    States of later batches are removed, too: they are broken, and `read_state` went back to the one before.
    """
    with _writing(run / STATES_NAME / f"{state['step']:08d}.pt") as file:
        torch.save(state, file)
    present = states(run)
    later = [path for path in present if int(path.stem) > state["step"]]
    for old in [*later, *[path for path in present if path not in later][:-keep]]:
        old.unlink()


def keep_best(run: Path) -> None:
    """Keep the newest state as best.pt, too."""
    newest = states(run)[-1]
    with replacing(newest.with_name(BEST_NAME)) as part:
        try:
            part.unlink()
            os.link(newest, part)
        except OSError:  # the file system has no links
            shutil.copyfile(newest, part)


def read_state(
    run: Path, recipe: dict[str, Any], check: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any] | None:
    """Read the newest whole state; None in a new run folder.

    Args:
        run: The run's folder.
        recipe: The settings to continue with.
        check: Raises an error for a state that cannot be restored.

    Raises:
        ValueError: there are states but none is whole, or there is an encoder but no state; or the run was begun with
            other settings.
    """
    paths = states(run)
    for path in reversed(paths):
        try:
            state = _read_whole(path)
            begun_with = {RENAMED_SETTINGS.get(name, name): value for name, value in flatten(state["recipe"])}
            if check is not None:
                check(state)
        except MemoryError:
            raise
        except Exception as error:  # a broken file can raise anything
            reason = shortened(error)
            logger.warning("%s: not the state of a run, or a broken one (%s); trying the one before", path, reason)
            continue
        remedy = "give another --out, or the same setting"
        refuse_changes(begun_with, recipe, run, remedy, CHANGEABLE, dataclasses.asdict(Recipe()))
        return state
    if paths:
        raise ValueError(f"{paths[-1]}: not the state of a run, or a broken one; give another --out to begin anew")
    if (encoder := run / "last").exists():
        raise ValueError(
            f"{run}: no state to continue from, but beginning anew would replace the encoder {encoder}: give another "
            f"--out (with --init {encoder} to begin with its weights), or remove {encoder}"
        )
    return None


def _read_whole(path: Path) -> dict[str, Any]:
    """Read a state after comparing the checksums of its archive, which torch does not do."""
    state = read_whole(path)
    if not isinstance(state, dict) or not isinstance(state.get("recipe"), dict):
        raise ValueError("it holds no recipe")
    if type(state.get("step")) is not int or state["step"] != int(path.stem):
        raise ValueError(f"it is the state of batch {quote(state.get('step'))}")
    return state


@contextlib.contextmanager
def saving(run: Path, step: int) -> Iterator[None]:
    """A context for writing the save of batch ``step``, which explains a full disk in one line.

    Raises:
        OSError: with the reason and the save that stays.
    """
    try:
        with disk_errors(run):
            yield
    except OSError as error:
        earlier = states(run)
        kept = f"the save of batch {int(earlier[-1].stem)} stays" if earlier else "there is no earlier save"
        reason = error.strerror or shortened(error)
        raise OSError(
            f"{run}: batch {step} could not be saved ({reason}); {kept}: make room and start the same command again"
        ) from error


def append_metrics(run: Path, line: dict[str, Any]) -> None:
    """Append a line with a ``step`` to metrics.jsonl; OSError as in `saving`."""
    with saving(run, line["step"]), (run / METRICS_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl, except one that was cut short.

    Raises:
        ValueError: there is no metrics.jsonl.
    """
    path = run / METRICS_NAME
    if not path.is_file():
        raise ValueError(f"{run}: not a run: no {METRICS_NAME} in it")
    lines = []
    with open_lines(str(path)) as file:
        for text in lines_of(file, str(path)):
            with contextlib.suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("step"), int):
                    lines.append(line)
    return lines


def cut_metrics(run: Path, step: int) -> None:
    """Drop the lines after batch ``step``, which a killed run wrote after its last save and will write again."""
    path = run / METRICS_NAME
    if path.exists():
        kept = "".join(json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step)
        with _writing(path) as file:
            file.write(kept.encode())


def steps_done(run: Path) -> int:
    """Number of batches that a run has saved; ValueError if the config.json of its last save is broken."""
    config = run / "last" / "config.json"
    if not config.exists():
        return 0
    try:
        content = read_json(config)
        steps = EncoderConfig.from_dict(content).provenance.steps
        if "provenance" not in content:
            raise ValueError("its provenance is missing")
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from error
    return steps

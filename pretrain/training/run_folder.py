"""A run folder on disk: the recipe, the metrics, and the states that a run resumes from.

Every file appears whole or not at all.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from safetensors import SafetensorError

from maeast_upstream.storage.settings import refuse_changes

logger = logging.getLogger(__name__)

STATES_NAME, METRICS_NAME, RECIPE_NAME, STATS_NAME = "states", "metrics.jsonl", "config.yaml", "stats.json"
BEST_NAME, LOCK_NAME = "best.pt", ".lock"

CHANGEABLE = frozenset(
    {
        "out",
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


class Lock:
    """A lock that lets only one process write to a run folder."""

    def __init__(self, run: Path) -> None:
        """Make and lock the folder; ValueError if another process holds the lock."""
        run.mkdir(parents=True, exist_ok=True)
        self._file = (run / LOCK_NAME).open("a+", encoding="utf-8")
        try:
            # lockf, because a flock would survive in the loader's processes when this process is killed
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ValueError(f"{run}: process {holder} is training in it; wait for it, or give another --out") from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have ``write`` fill a file beside ``path``, then rename it; a killed run or a full disk leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_recipe(run: Path, recipe: dict[str, Any]) -> None:
    """Write config.yaml, which ``--config`` can read."""
    text = yaml.safe_dump(recipe, sort_keys=False)
    write_atomically(run / RECIPE_NAME, lambda file: file.write(text.encode()))


def states(run: Path) -> list[Path]:
    """The states of the last saves, oldest first."""
    return sorted(path for path in (run / STATES_NAME).glob("*.pt") if path.stem.isdecimal())


def write_state(run: Path, state: dict[str, Any], keep: int) -> None:
    """Write a state, named by its batch, and remove all but the last ``keep`` states."""
    path = run / STATES_NAME / f"{state['step']:08d}.pt"
    write_atomically(path, lambda file: torch.save(state, file))
    for old in states(run)[:-keep]:
        old.unlink()


def keep_best(run: Path) -> None:
    """Keep the newest state as best.pt, too."""
    folder = run / STATES_NAME
    part = folder / f"{BEST_NAME}.part"
    part.unlink(missing_ok=True)
    newest = states(run)[-1]
    try:
        os.link(newest, part)
    except OSError:  # a file system without links
        shutil.copyfile(newest, part)
    os.replace(part, folder / BEST_NAME)


def read_state(run: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Read the newest whole state; None in a new run folder.

    Raises:
        ValueError: there are states but none is whole, or the run was begun with other settings.
    """
    paths = states(run)
    for path in reversed(paths):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            begun_with = state["recipe"]
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError):
            logger.warning("%s: not the state of a run, or a broken one; trying the one before", path)
            continue
        refuse_changes(begun_with, recipe, run, "give another --out, or the same setting", CHANGEABLE)
        return state
    if paths:
        raise ValueError(f"{paths[-1]}: not the state of a run, or a broken one; remove it to begin anew")
    return None


@contextlib.contextmanager
def saving(run: Path, step: int) -> Iterator[None]:
    """A context for writing the save of batch ``step``, which explains a full disk in one line.

    Raises:
        OSError: with the reason and the save that stays.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise
        earlier = states(run)
        kept = f"the save of batch {int(earlier[-1].stem)} stays" if earlier else "there is no earlier save"
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
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
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def cut_metrics(run: Path, step: int) -> None:
    """Drop the lines after batch ``step``, which a killed run wrote after its last save and will write again."""
    path = run / METRICS_NAME
    if path.exists():
        kept = "".join(json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step)
        write_atomically(path, lambda file: file.write(kept.encode()))


def steps_done(run: Path) -> int:
    """Number of batches that a run has saved."""
    config = run / "last" / "config.json"
    return int(json.loads(config.read_text(encoding="utf-8"))["provenance"]["steps"]) if config.exists() else 0

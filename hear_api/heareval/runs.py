"""One task through heareval's two runners, each in a process of its own; what is done already is not done again."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hear_api.heareval.repairs import PREDICTIONS_ENVIRONMENT
from hear_api.tasks.format import SCORES_NAME, Task

EMBEDDED_NAME, PREDICTED_NAME = ".done.embeddings", "prediction-done.json"
"""What the kit leaves where a runner is through with a task."""
STATE_NAME = "maeast.json"
"""Ours, in the same folder: what the kit's results are of, and the seconds that each part took."""

LOCK_SECONDS = 3.0
"""The processes of a command that was killed end by themselves within a second."""


class KitError(ValueError):
    """A runner failed on a task."""


@dataclass(frozen=True)
class Settings:
    """What decides a task's embeddings and scores, beside the task."""

    checkpoint: Path | None
    """None for the one in the package."""
    options: Mapping[str, Any]
    """Keyword options of `hear_api.load_model`."""
    grid: str
    """default, fast or faster, of the kit."""
    grid_points: int
    """Points of the grid that are trained."""
    threads: int | None
    """Of each process; None for one where heads are trained, whose small matrices are slower with more, and for all
    that a task has for itself where it is embedded."""
    device: str
    """auto: CUDA where there is one, as the kit does; cpu."""


@dataclass
class Processes:
    """Child processes that can be stopped together."""

    lock: int
    """A descriptor that each of them inherits: while one lives, even without this process, the lock is held."""
    share: int = 1
    """Processors for each of the tasks that run at a time."""
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, command: list[str], log: Path, environment: dict[str, str]) -> int:
        """Run a command to its end, all that it says in ``log``; its exit status."""
        with log.open("wb") as file:
            with self._lock:
                if self.stopped:
                    return 1
                child = subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=file,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=[self.lock],
                )
                self.running.add(child)
            try:
                return child.wait()
            finally:
                with self._lock:
                    self.running.discard(child)

    def stop(self) -> None:
        """End what runs; start no more."""
        with self._lock:
            self.stopped = True
            for child in self.running:
                child.terminate()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """A lock on a folder of results; yields its descriptor.

    Raises:
        ValueError: another command, or a process that it left behind, writes there.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > until:
                    message = f"{folder}: another maeast hear is writing there; wait until it has ended"
                    raise ValueError(message) from error
                time.sleep(0.1)
        yield file.fileno()


@dataclass(frozen=True)
class TaskRun:
    """A task, and where its results go."""

    task: Task
    folder: Path
    """The checkpoint's own: the kit names embeddings after the module only, and would take those of other weights."""
    settings: Settings
    processes: Processes

    @property
    def results(self) -> Path:
        """The kit's folder for this task: it names it after the module and the options."""
        from slugify import slugify

        options = [f"-{slugify(name)}={slugify(str(value))}" for name, value in self.settings.options.items()]
        return self.folder / "embeddings" / f"hear_api{''.join(options)}" / self.task.name

    @property
    def state(self) -> dict[str, Any]:
        """What the results are of; empty where there are none."""
        try:
            content = json.loads((self.results / STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and isinstance(content.get("seconds"), dict) else {}

    def run(self) -> bool:
        """Do what is not done yet; whether there was anything to do.

        Raises:
            KitError: a runner failed; the message ends with the kit's own words, the log has all of them.
        """
        state = self.state
        if state.get("task") != self.task.digest or not (self.results / EMBEDDED_NAME).exists():
            state = {"task": self.task.digest, "seconds": {"embeddings": self._embed()}}
            self._remember(state)
        grid = {"grid": self.settings.grid, "grid_points": self.settings.grid_points}
        if state.get("grid") == grid and (self.results / PREDICTED_NAME).exists():
            return False
        for name in (PREDICTED_NAME, SCORES_NAME):
            (self.results / name).unlink(missing_ok=True)
        seconds = {**state["seconds"], "predictions": self._predict()}
        self._remember({**state, "grid": grid, "seconds": seconds})
        return True

    def _remember(self, state: dict[str, Any]) -> None:
        part = self.results / f"{STATE_NAME}.part"
        part.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.results / STATE_NAME)

    def _embed(self) -> float:
        shutil.rmtree(self.results, ignore_errors=True)
        checkpoint = self.settings.checkpoint
        arguments = [
            "hear_api",
            *([] if checkpoint is None else ["--model", str(checkpoint)]),
        ]
        arguments += [
            "--tasks-dir",
            str(self.task.folder.parent.resolve()),
            "--task",
            self.task.name,
        ]
        arguments += ["--embeddings-dir", str(self.folder / "embeddings")]
        return self._start(
            "embeddings",
            [*arguments, "--model-options", json.dumps(self.settings.options)],
            {},
        )

    def _predict(self) -> float:
        trained = self.results / "lightning_logs"
        shutil.rmtree(trained, ignore_errors=True)  # of a run that was stopped
        points = [
            "--grid",
            self.settings.grid,
            "--grid-points",
            str(self.settings.grid_points),
        ]
        seconds = self._start("predictions", [str(self.results), *points], PREDICTIONS_ENVIRONMENT)
        for checkpoint in trained.glob("*/checkpoints"):
            shutil.rmtree(checkpoint)
        return seconds

    def _start(self, part: str, arguments: list[str], extra: Mapping[str, str]) -> float:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{self.task.name}.{part}.log"
        environment = {name: value for name, value in os.environ.items() if name not in PREDICTIONS_ENVIRONMENT}
        threads = str(self.settings.threads or (self.processes.share if part == "embeddings" else 1))
        environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **extra}
        if self.settings.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "hear_api.heareval.launch", part, *arguments]
        begun = time.monotonic()
        if status := self.processes.run(command, log, environment):
            raise KitError(f"{self.task.folder}: heareval's {part} ended with {status}: {last_line(log)} (see {log})")
        return time.monotonic() - begun


def last_line(log: Path) -> str:
    """What a runner said last, at most 200 characters of it."""
    text = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return text[-1][:200] if text else "it said nothing"

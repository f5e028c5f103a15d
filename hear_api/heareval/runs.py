"""Runs one task through heareval's two runners, each in its own process; finished work is not repeated."""

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
from hear_api.tasks.format import SCORES_NAME, HearTask
from maeast_upstream.messages import shortened
from maeast_upstream.progress import say
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.lock import inherited_lock

EMBEDDED_NAME, PREDICTED_NAME = ".done.embeddings", "prediction-done.json"
"""Files that the kit writes when a runner has finished a task."""
STATE_NAME = "maeast.json"
LOGS_NAME = "logs"
"""Our file in the same folder: from which task and grid the kit's results are, and the seconds of each part."""
MAX_LOG_BYTES = 1 << 16
"""The end of a runner's log in which its last line is looked for."""
LOCK_SECONDS = 3.0
"""Time to wait for the processes of a killed command, which end by themselves within a second."""


class KitError(ValueError):
    """A runner failed on a task."""


@dataclass(frozen=True)
class KitSettings:
    """What a task's embeddings and scores depend on besides the task."""

    checkpoint: Path | None
    """None for the checkpoint in the package."""
    options: Mapping[str, Any]
    """Keyword options of `hear_api.load_model`."""
    grid: str
    """Name of the kit's grid: default, fast or faster."""
    grid_points: int
    """Number of the grid's points that are trained."""
    threads: int | None
    """Threads of each process. None for one thread where heads are trained, whose small matrices are slower with more,
    and for the task's share of the processors where it is embedded."""
    device: str
    """cpu, or auto for CUDA if it is available, as in the kit."""


@dataclass
class Processes:
    """Child processes that can be stopped together."""

    lock: int
    """Descriptor of a lock that each process inherits, so that it is held as long as one of them runs."""
    share: int = 1
    """Processors for each of the tasks that run at the same time."""
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, command: list[str], log: Path, environment: dict[str, str]) -> int:
        """Run a command to its end with its output in the file ``log``, and return its exit status."""
        with log.open("wb") as file:
            with self._lock:
                if self.stopped:
                    return 1
                child = subprocess.Popen(
                    command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment, pass_fds=[self.lock]
                )
                self.running.add(child)
            try:
                return child.wait()
            finally:
                with self._lock:
                    self.running.discard(child)

    def stop(self) -> None:
        """End the running processes, and start no more."""
        with self._lock:
            self.stopped = True
            for child in self.running:
                child.terminate()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a lock on a folder of results, and yield its descriptor for `Processes`.

    Raises:
        ValueError: Another command, or a process that it started, writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"{folder}: another maeast hear is writing there; wait until it has ended"
    with inherited_lock(folder / ".lock", refusal, LOCK_SECONDS) as descriptor:
        yield descriptor


@dataclass(frozen=True)
class TaskRun:
    """A task, the folder of its results, and how it is run."""

    task: HearTask
    folder: Path
    """Folder of one checkpoint's results: the kit names embeddings after the module only, not after its weights."""
    settings: KitSettings
    processes: Processes

    @property
    def results(self) -> Path:
        """The kit's folder for this task, which is named after the module and the options."""
        from slugify import slugify

        options = [f"-{slugify(name)}={slugify(str(value))}" for name, value in self.settings.options.items()]
        return self.folder / "embeddings" / f"hear_api{''.join(options)}" / self.task.name

    @property
    def state(self) -> dict[str, Any]:
        """The content of STATE_NAME; empty if there are no results."""
        try:
            content = json.loads((self.results / STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) and isinstance(content.get("seconds"), dict) else {}

    def run(self) -> bool:
        """Do what is not done yet, and return whether there was anything to do.

        Raises:
            KitError: A runner failed; the message ends with the last line of its log.
        """
        state = self.state
        if state.get("task") != self.task.digest or not (self.results / EMBEDDED_NAME).exists():
            state = {"task": self.task.digest, "seconds": {"embeddings": self._embed()}}
            self._write_state(state)
        grid = {"grid": self.settings.grid, "grid_points": self.settings.grid_points}
        if state.get("grid") == grid and (self.results / PREDICTED_NAME).exists():
            return False
        for name in (PREDICTED_NAME, SCORES_NAME):
            (self.results / name).unlink(missing_ok=True)
        seconds = {**state["seconds"], "predictions": self._predict()}
        self._write_state({**state, "grid": grid, "seconds": seconds})
        return True

    def _write_state(self, state: dict[str, Any]) -> None:
        with replacing(self.results / STATE_NAME) as part:
            part.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def _embed(self) -> float:
        shutil.rmtree(self.results, ignore_errors=True)
        checkpoint = self.settings.checkpoint
        arguments = ["hear_api", *([] if checkpoint is None else ["--model", str(checkpoint)])]
        arguments += ["--tasks-dir", str(self.task.folder.parent.resolve()), "--task", self.task.name]
        arguments += ["--embeddings-dir", str(self.folder / "embeddings")]
        arguments += ["--model-options", json.dumps(self.settings.options)]
        return self._start("embeddings", arguments, {})

    def _predict(self) -> float:
        heads = self.results / "lightning_logs"
        shutil.rmtree(heads, ignore_errors=True)  # from a run that was stopped
        grid = ["--grid", self.settings.grid, "--grid-points", str(self.settings.grid_points)]
        seconds = self._start("predictions", [str(self.results), *grid], PREDICTIONS_ENVIRONMENT)
        for checkpoint in heads.glob("*/checkpoints"):
            shutil.rmtree(checkpoint)
        return seconds

    def _start(self, part: str, arguments: list[str], extra: Mapping[str, str]) -> float:
        say(f"{self.task.name}: {part}", in_terminals_only=True)
        logs = self.folder / LOGS_NAME
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{self.task.name}.{part}.log"
        environment = {name: value for name, value in os.environ.items() if name not in PREDICTIONS_ENVIRONMENT}
        threads = str(self.settings.threads or (self.processes.share if part == "embeddings" else 1))
        environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **extra}
        if self.settings.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "hear_api.heareval.launch", part, *arguments]
        start = time.monotonic()
        if status := self.processes.run(command, log, environment):
            raise KitError(
                f"{self.task.folder}: heareval's {part} ended with exit status {status}: {last_line(log)} (see {log})"
            )
        return time.monotonic() - start


def last_line(log: Path) -> str:
    """The last line of a runner's log, at most 200 characters of it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - MAX_LOG_BYTES))
        content = file.read(MAX_LOG_BYTES).decode(errors="replace")
    text = [line.strip() for line in content.splitlines() if line.strip()]
    return shortened(text[-1]) if text else "the log is empty"

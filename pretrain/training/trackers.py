"""Experiment trackers: TensorBoard, Weights & Biases and MLflow, each through Accelerate's own class.

metrics.jsonl remains the record of a run; the trackers show the same values.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.messages import install_extra

PROJECT = "mae-ast"
"""Project in Weights & Biases, experiment in MLflow; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME override it."""
BOARD_NAME, ID_NAME = "tensorboard", "tracker.json"


class Trackers:
    """The trackers of a run; there may be none."""

    def __init__(self, run: Path, step: int, tensorboard: bool, tracker: str) -> None:
        """Start the trackers, or continue what they have of this run.

        Args:
            run: the run's folder.
            step: the run continues after this step; TensorBoard drops what it has beyond.
            tensorboard: whether to write to ``run``/tensorboard.
            tracker: "none", "wandb" or "mlflow".

        Raises:
            ImportError: a package is missing; names it and says what to do.
            ValueError: a tracker did not start, for example without a login.
        """
        self.trackers: list[Any] = []
        if tensorboard:
            remedy = f"{install_extra('pretrain')}, or give --tensorboard false"
            self._start("TensorBoardTracker", remedy, BOARD_NAME, run, purge_step=step + 1)
        if tracker == "none":
            return
        remedy, path = f"pip install accelerate {tracker}, or give --tracker none", run / ID_NAME
        known = json.loads(path.read_text(encoding="utf-8")).get(tracker) if path.exists() else None
        if tracker == "wandb":
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            self._start("WandBTracker", remedy, project, name=run.name, dir=run, id=known, resume="allow")
            known = self.trackers[-1].tracker.id
        else:
            self._start("MLflowTracker", remedy, PROJECT, run_name=run.name, run_id=known)
            known = self.trackers[-1].tracker.info.run_id
        path.write_text(json.dumps({tracker: known}) + "\n", encoding="utf-8")

    def _start(self, class_name: str, remedy: str, /, *args: object, **options: object) -> None:
        try:
            from accelerate import PartialState, tracking

            PartialState(cpu=True)  # the trackers need it; where Accelerate knows the processes already it does nothing
            tracker = getattr(tracking, class_name)(*args, **options)
            tracker.start()
        except ImportError as error:
            raise ImportError(f"{error.name or 'accelerate'} is not installed: {remedy}") from error
        except Exception as error:  # each service has errors of its own, such as a missing login
            reason = " ".join(str(error).split())
            raise ValueError(f"{class_name} did not start ({reason}); set it up, or give --tracker none") from error
        self.trackers.append(tracker)

    @property
    def show_pictures(self) -> bool:
        """Whether a tracker shows pictures."""
        return any(hasattr(tracker, "log_images") for tracker in self.trackers)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve; validation curves are grouped."""
        for tracker in self.trackers:
            tracker.log({name.replace("valid_", "valid/"): value for name, value in values.items()}, step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Show a (height, width, 3) uint8 picture."""
        for tracker in self.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == BOARD_NAME else {}
                tracker.log_images({name: image[None]}, step=step, **layout)

    def close(self) -> None:
        """Write what is left and end the trackers."""
        for tracker in self.trackers:
            tracker.finish()

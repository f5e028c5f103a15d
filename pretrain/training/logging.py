"""What a run shows: a progress bar, metrics.jsonl, TensorBoard."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import progress_bar
from pretrain.training import run_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

BOARD_NAME = "tensorboard"


class Meter:
    """Sums over the batches since the last line; the losses stay on their device, because reading would wait for it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.sums: dict[str, Tensor] = {}
        self.batches = self.clips = self.flops = 0
        self.seconds = 0.0
        self.since = time.monotonic()

    def add(self, values: Mapping[str, Tensor], clips: int, samples: int, flops: int) -> None:
        """Take up one batch: its losses, and what all processes did in it."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.batches += 1
        self.clips += clips
        self.seconds += samples / SAMPLE_RATE
        self.flops += flops

    def means(self) -> dict[str, Tensor]:
        """The losses' means, as one would log them."""
        return {name: value / self.batches for name, value in self.sums.items()}

    def rates(self, peak: float) -> dict[str, float]:
        """Crops and hours of audio a second, and the share of ``peak`` operations a second."""
        passed = max(time.monotonic() - self.since, 1e-9)
        return {
            "crops_per_second": round(self.clips / passed, 1),
            "hours_per_second": round(self.seconds / 3600 / passed, 5),
            "share_of_peak": round(self.flops / passed / peak, 3),
        }


class Report:
    """Writes for people; only the first process of a run has one."""

    def __init__(self, folder: Path, step: int, steps: int, tensorboard: bool) -> None:
        """Begin at batch ``step``; ImportError if TensorBoard is wanted and not installed."""
        self.folder = folder
        run_folder.cut_metrics(folder, step)
        self.board = open_board(folder / BOARD_NAME, step) if tensorboard else None
        self.first = self.done = step
        self.steps, self.begun = steps, time.monotonic()
        self.bar = progress_bar(total=steps, initial=step, unit="batch")

    def step(self) -> None:
        """One batch is done."""
        self.done += 1
        self.bar.update()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, of the log, and a point of each curve."""
        text = " ".join(f"{key} {value}" for key, value in values.items())
        logger.info("batch %d of %d: %s, %s left", step, self.steps, text, self._left())
        self.bar.set_postfix_str(text, refresh=False)
        run_folder.append_metrics(self.folder, {"step": step, **values})
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name.replace("valid_", "valid/"), value, step)
            self.board.flush()

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """(height, width, 3) uint8, where there is TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def _left(self) -> str:
        passed = time.monotonic() - self.begun
        left = (self.steps - self.done) * passed / max(1, self.done - self.first)
        return str(self.bar.format_interval(left))


def open_board(folder: Path, step: int) -> "SummaryWriter":
    """Curves from ``step`` on: what an earlier process wrote past it is not shown."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard is not installed: pip install 'maeast-upstream[pretrain]', or give --tensorboard false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def rounded(values: Mapping[str, Any]) -> dict[str, float]:
    """Tensors as numbers of five digits after the point; waits for the device once."""
    names = list(values)
    if not names:
        return {}
    numbers = torch.stack([values[name].detach().double() for name in names]).tolist()
    return {name: round(number, 5) for name, number in zip(names, numbers, strict=True)}

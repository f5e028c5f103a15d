"""What a run reports: a progress bar, the log, metrics.jsonl and trackers."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import progress_bar
from pretrain.data.batches import Batch
from pretrain.training import run_folder
from pretrain.training.flops import StepFlops
from pretrain.training.trackers import Trackers

logger = logging.getLogger(__name__)


class Meter:
    """Sums over the batches since the last line; losses stay on their device, so that the host need not wait."""

    def __init__(self, flops: StepFlops, peak: float, processes: int) -> None:
        """Begin to measure.

        Args:
            flops: counts the operations of a step.
            peak: operations per second that a device reaches at its best.
            processes: processes of the run, which all do as much as this one.
        """
        self.flops, self.peak, self.processes = flops, peak, processes
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self.sums: dict[str, Tensor] = {}
        self.batches = self.crops = self.samples = self.operations = 0
        self.since = time.monotonic()

    def begin(self) -> None:
        """Begin to measure time."""
        self.since = time.monotonic()

    def add(self, values: Mapping[str, Tensor], micro_batches: Sequence[Batch]) -> None:
        """Add the losses and the micro-batches of an update."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.batches += 1
        for batch in micro_batches:
            self.crops += len(batch.waveforms)
            self.samples += int(batch.lengths.sum())
            self.operations += self.flops(*batch.waveforms.shape)

    def state(self) -> dict[str, Any]:
        """What the next line covers so far, for a run that is stopped before it."""
        return {"sums": self.sums, "batches": self.batches}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue what `state` gave, so that the next line covers the batches before the stop, too.

        Rates are those since the start, because the time between stop and start does not count.
        """
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.batches = state["batches"]

    def means(self) -> dict[str, Tensor]:
        """The mean of each loss."""
        return {name: value / self.batches for name, value in self.sums.items()}

    def rates(self) -> dict[str, float]:
        """Crops per second, hours of audio per second, and the share of the devices' peak rate, in all processes."""
        passed = max(time.monotonic() - self.since, 1e-9)
        return {
            "crops_per_second": round(self.processes * self.crops / passed, 1),
            "hours_per_second": round(self.processes * self.samples / SAMPLE_RATE / 3600 / passed, 5),
            "share_of_peak": round(self.operations / passed / self.peak, 3),
        }


class Report:
    """Writes what people read; only the first process of a run has one."""

    def __init__(self, folder: Path, step: int, steps: int, trackers: Trackers) -> None:
        """Begin at batch ``step`` of ``steps``, and drop the lines of metrics.jsonl beyond."""
        self.folder, self.trackers = folder, trackers
        run_folder.cut_metrics(folder, step)
        self.first = self.done = step
        self.steps, self.begun = steps, time.monotonic()
        self.bar = progress_bar(total=steps, initial=step, unit="batch")

    def step(self) -> None:
        """Count a finished batch."""
        self.done += 1
        self.bar.update()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl and to the log, and a point to each curve."""
        text = " ".join(f"{key} {value}" for key, value in values.items())
        logger.info("batch %d of %d: %s, %s left", step, self.steps, text, self._remaining())
        self.bar.set_postfix_str(text, refresh=False)
        run_folder.append_metrics(self.folder, {"step": step, **values})
        with run_folder.saving(self.folder, step):
            self.trackers.log(values, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Show a (height, width, 3) uint8 picture in the trackers."""
        with run_folder.saving(self.folder, step):
            self.trackers.picture(name, image, step)

    def close(self) -> None:
        """End the progress bar and the trackers."""
        self.bar.close()
        with run_folder.saving(self.folder, self.done):
            self.trackers.close()

    def _remaining(self) -> str:
        """Time to the last batch at the speed so far."""
        passed = time.monotonic() - self.begun
        remaining = (self.steps - self.done) * passed / max(1, self.done - self.first)
        return str(self.bar.format_interval(remaining))


def rounded(values: Mapping[str, Any]) -> dict[str, float]:
    """Tensors as numbers with five digits after the point; waits for the device once."""
    names = list(values)
    if not names:
        return {}
    numbers = torch.stack([values[name].detach().double() for name in names]).tolist()
    return {name: round(number, 5) for name, number in zip(names, numbers, strict=True)}

"""The training loop: batches in, a run folder out; stopped and started again, it ends as if it never stopped."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maeast_upstream import checkpoint
from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.modules.cpu.memory import keep_freed_memory
from maeast_upstream.storage.settings import flatten
from pretrain.config import Recipe
from pretrain.data import statistics
from pretrain.data.batches import Batch, BatchSharding, CropBatches, batches
from pretrain.data.corpus import describe, open_training, open_validation
from pretrain.data.failures import DecodeFailures
from pretrain.data.gpu import ResidentBatches
from pretrain.data.shards import ShardBatches
from pretrain.objective import Objective
from pretrain.training import run_folder
from pretrain.training.distributed import Parallel
from pretrain.training.logging import Meter, Report, rounded
from pretrain.training.monitor import Watch
from pretrain.training.signals import stop_on_signal
from pretrain.training.snapshot import restore, snapshot
from pretrain.training.step import NonFiniteError, Updater

logger = logging.getLogger(__name__)


class Trainer:
    """One run of a recipe.

    The folder ``recipe.out`` gets config.yaml (the recipe), metrics.jsonl (one line every ``log_every`` batches),
    states/ (all that resuming needs) and last/, best/, ema/ (encoders, in the package's own format).
    """

    def __init__(self, recipe: Recipe) -> None:
        """Open the corpus, and build the network or take up the run that lies in ``recipe.out``.

        Raises:
            ValueError: no such device, corpus or parent; another process trains there; the run was begun with other
                settings.
        """
        self.recipe = recipe
        self.run = Path(recipe.out)
        self.parallel = Parallel(recipe.device, recipe.sharding, recipe.model.layerdrop > 0)
        self.device = self.parallel.device
        if recipe.precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision fp16 needs a GPU, and none is used here: give --precision bf16 or fp32")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.parts = BatchSharding(self.parallel.processes, self.parallel.rank, recipe.optim.accumulate)
        begun = bool(run_folder.states(self.run))
        parent = load_parent(recipe) if recipe.init is not None and not begun else None
        with self.parallel.main_first():  # which decodes the corpus
            self.source = open_training(recipe, self.parts, 0)
            self.validation = open_validation(recipe, self.parts)
            self.lock = run_folder.Lock(self.run) if self.parallel.is_main else None
            state = run_folder.read_state(self.run, dataclasses.asdict(recipe))
            normalisation = self._normalisation(state, parent)
        torch.manual_seed(recipe.seed)
        self.objective = Objective(recipe, normalisation).to(self.device)
        if parent is not None:
            self.objective.network.load_state_dict(parent.state)
        self.parallel.shard(self.objective)
        self.updater = Updater(recipe, self.objective, self.parallel)
        self.step, self.best, self.saved = 0, math.inf, -1
        if state is not None:
            self.step, self.best = state["step"], state["best"]
            restore(self.updater, state)
            if isinstance(self.source, ShardBatches):
                self.source = open_training(recipe, self.parts, self.step)
        self.bad = DecodeFailures(recipe.data.max_bad_share, self._listed())

    def _normalisation(self, state: dict[str, Any] | None, parent: checkpoint.Loaded | None) -> Normalisation:
        if state is not None:
            return Normalisation(**state["normalisation"])
        if parent is not None:
            return parent.config.normalisation
        path = self.run / run_folder.STATS_NAME
        found = statistics.read(path)
        if found is None:
            found = statistics.measure(self.source, self.recipe)
            statistics.write(path, found)
        return found

    def _listed(self) -> Iterator[tuple[str, str]]:
        """What could not even be listed."""
        if isinstance(self.source, CropBatches):
            yield from self.source.clips.bad.items()

    def train(self) -> bool:
        """Run to the last batch, or for max_minutes; Ctrl-C or SIGTERM finishes the batch, saves and stops.

        Returns:
            False if a signal stopped it.

        Raises:
            ValueError: a loss became NaN or infinite, or too many clips are bad; the run's last save stays as it was.
            OSError: the disk is full; the run's last save stays as it was.
        """
        try:
            return self._train()
        except NonFiniteError as error:
            raise ValueError(self._diverged(error)) from error
        finally:
            self.close()

    def _train(self) -> bool:
        recipe = self.recipe
        incoming = (
            self._batches()
        )  # first, because its processes are forked: TensorBoard's thread would not survive that
        report = None
        if self.parallel.is_main:
            checkpoint.repair(self.run)
            run_folder.write_recipe(self.run, dataclasses.asdict(recipe))
            report = Report(self.run, self.step, recipe.optim.steps, recipe.tensorboard)
            self._announce()
        self.objective.train()
        watch = Watch(self.updater, report, self.validation)
        until = time.monotonic() + 60 * (recipe.max_minutes or math.inf)
        meter = Meter()
        with stop_on_signal() as stop:
            for parts in incoming:
                meter.add(self._batch(parts), *self._amount(parts, watch))
                self.step += 1
                if report is not None:
                    report.step()
                self._after(parts, meter, watch)
                if self.parallel.any(stop.is_set() or time.monotonic() > until):
                    break
            if self.saved != self.step:
                self.save()
            stopped = self.parallel.any(stop.is_set())
        if report is not None:
            report.close()
        if self.step < recipe.optim.steps:
            logger.warning(
                "stopped at batch %d and saved; the same command goes on from there",
                self.step,
            )
        return not stopped

    def _after(self, parts: list[Batch], meter: Meter, watch: Watch) -> None:
        """What is due after this batch: a line, a validation, a probe, a save."""
        recipe, step = self.recipe, self.step
        if step % recipe.log_every == 0 or step == recipe.optim.steps:
            self._log(meter, watch)
        if self.validation is not None and step % recipe.validate_every == 0:
            self._validate(watch)
        if recipe.probe is not None and step % recipe.probe_every == 0:
            watch.probe(self.encoder_config(), step)
        if step % recipe.save_every == 0:
            if self.saved != step:
                self.save()
            watch.pictures(parts[0], step)

    def _batches(self) -> Iterator[list[Batch]]:
        """For each batch the parts of this process; clips that cannot be decoded are counted on the way."""
        steps = self.recipe.optim.steps
        if self.step >= steps:
            return iter(())
        loader: Iterator[Batch]
        if self.recipe.data.resident and self.device.type != "cpu":
            assert isinstance(self.source, CropBatches)
            loader = ResidentBatches(self.source, self.device).range(self.step, steps)
        else:
            pin = self.device.type == "cuda"
            loader = iter(batches(self.source, self.step, steps, self.recipe.data.workers, pin))
        return (self._parts(loader) for _ in range(self.step, steps))

    def _parts(self, loader: Iterator[Batch]) -> list[Batch]:
        """The next batch's."""
        parts = [Batch(*part) for part in islice(loader, self.parts.accumulate)]
        for part in parts:
            self.bad.add(part)
        return parts

    def _batch(self, parts: list[Batch]) -> dict[str, Tensor]:
        return self.updater.update(parts, self.step)

    def _amount(self, parts: list[Batch], watch: Watch) -> tuple[int, int, int]:
        """Crops, samples of them, and floating point operations on them, in all processes."""
        rows = sum(len(part.waveforms) for part in parts) * self.parts.processes
        samples = sum(int(part.lengths.sum()) for part in parts) * self.parts.processes
        return (
            rows,
            samples,
            sum(watch.flops(*part.waveforms.shape) for part in parts) * self.parts.processes,
        )

    def _log(self, meter: Meter, watch: Watch) -> None:
        self.updater.check()
        means = {name: self.parallel.add(value.clone()) for name, value in meter.means().items()}
        values = rounded({name: value / self.parts.processes for name, value in means.items()})
        if watch.report is not None:
            rate = self.updater.rate(self.step - 1)
            bad = {"bad_clips": len(self.bad.reasons)} if self.bad.reasons else {}
            watch.report.line(
                self.step,
                {
                    **values,
                    "lr": float(f"{rate:.4g}"),
                    **meter.rates(watch.peak),
                    **bad,
                },
            )
        meter.reset()

    def _validate(self, watch: Watch) -> None:
        """Save, then the validation losses; the best so far keeps its state and its encoder."""
        loss = watch.validate(self.step)
        better = loss < self.best
        self.best = min(loss, self.best)
        self.save()
        if better and self.parallel.is_main:
            with run_folder.saving(self.run, self.step):
                run_folder.keep_best(self.run)
                checkpoint.save_folder(self.run / "best", self.objective.network, self.encoder_config())

    def save(self) -> None:
        """Write a state and the encoder; each appears whole or not at all.

        Raises:
            NonFiniteError, ValueError: a loss or weight is NaN or infinite; nothing is written then.
            OSError: the disk is full; what was there before stays.
        """
        self.updater.check()
        state = snapshot(self.updater)
        if not all(bool(value.isfinite().all()) for value in state["objective"].values()):
            raise ValueError(f"batch {self.step}: a weight is NaN or infinite; {REMEDY}")
        if self.parallel.is_main:
            with run_folder.saving(self.run, self.step):
                self._write(state)
        self.saved = self.step
        self.parallel.wait()

    def _write(self, state: dict[str, Any]) -> None:
        own = {
            "step": self.step,
            "best": self.best,
            "recipe": dataclasses.asdict(self.recipe),
            "normalisation": dataclasses.asdict(self.objective.normalise.statistics),
            "package": checkpoint.package_version(),
        }
        run_folder.write_state(self.run, {**own, **state}, self.recipe.keep_last)
        config = self.encoder_config()
        checkpoint.save_state(self.run / "last", network_part(state["objective"]), config)
        if state["average"] is not None:
            average = {**network_part(state["objective"]), **state["average"]["values"]}
            checkpoint.save_state(self.run / "ema", average, config)

    def _announce(self) -> None:
        parameters = sum(p.numel() for p in self.objective.parameters()) / 1e6
        normalisation = self.objective.normalise.statistics
        logger.info(
            "%s: %.1f M parameters on %s (%d processes, %s), %s, mean %.4f, std %.4f, batches %d to %d",
            self.run,
            parameters,
            self.device,
            self.parts.processes,
            self.recipe.precision,
            describe(self.source, self.recipe.data.corpus),
            normalisation.mean,
            normalisation.std,
            self.step + 1,
            self.recipe.optim.steps,
        )

    def _diverged(self, error: NonFiniteError) -> str:
        names = [self._clip_name(clip) for clip in error.clips[:NAMED]]
        more = f" and {len(error.clips) - NAMED} more" if len(error.clips) > NAMED else ""
        clips = f" on {', '.join(names)}{more}" if names else ""
        return f"batch {error.step + 1}: the loss or its gradient is NaN or infinite{clips}; not used; {REMEDY}"

    def _clip_name(self, clip: int | str) -> str:
        return clip if isinstance(clip, str) else self.source.clips.name(clip)  # type: ignore[union-attr]

    def encoder_config(self) -> EncoderConfig:
        """What last/config.json says."""
        recipe = self.recipe
        return EncoderConfig(
            model=recipe.model,
            frontend=recipe.frontend,
            normalisation=self.objective.normalise.statistics,
            provenance=Provenance(
                data=describe(self.source, recipe.data.corpus),
                steps=self.step,
                package=checkpoint.package_version(),
                parents=[recipe.init] if recipe.init else [],
            ),
        )

    def close(self) -> None:
        """Let others train in the folder."""
        if self.lock is not None:
            self.lock.release()
        self.parallel.close()


REMEDY = "the last save stays: lower optim.lr, or lengthen optim.warmup_steps, and begin with another --out"
NAMED = 8
"""Clips that a message names."""


def network_part(objective: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights among an objective's."""
    return {name.removeprefix("network."): v for name, v in objective.items() if name.startswith("network.")}


def load_parent(recipe: Recipe) -> checkpoint.Loaded:
    """The checkpoint that a run begins with; ValueError if it is not of the recipe's shape."""
    loaded = checkpoint.read(checkpoint.resolve(recipe.init))
    theirs = {f"model.{k}": v for k, v in dataclasses.asdict(loaded.config.model).items()}
    theirs |= {f"frontend.{k}": v for k, v in dataclasses.asdict(loaded.config.frontend).items()}
    for name, value in flatten({k: v for k, v in dataclasses.asdict(recipe).items() if k in ("model", "frontend")}):
        if value != theirs[name] and not name.endswith(("dropout", "layerdrop", "activations")):
            raise ValueError(f"init {recipe.init}: its {name} is {theirs[name]!r}, the recipe's {value!r}")
    return loaded

"""The training loop: reads batches and fills a run folder. A run that is stopped and started again ends the same."""

import dataclasses
import logging
import math
import shlex
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maeast_upstream import checkpoint
from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.modules.cpu.memory import keep_freed_memory
from maeast_upstream.storage.settings import flatten
from pretrain.data.batches import Batch, BatchSharding, CropBatches, batches
from pretrain.data.clips import packed_corpus
from pretrain.data.corpus import open_training, open_validation
from pretrain.data.crops import COMPUTED_CLIP
from pretrain.data.failures import DecodeFailures
from pretrain.data.gpu import GpuBatches
from pretrain.data.shards import ShardBatches
from pretrain.recipe import Recipe
from pretrain.targets import open_targets
from pretrain.training import origin, run_folder
from pretrain.training.build import build_flops, build_objective, build_updater
from pretrain.training.compiling import compile_network, compiler_wanted
from pretrain.training.distributed import Parallel
from pretrain.training.flops import peak_flops
from pretrain.training.logging import Meter, Report, rounded
from pretrain.training.monitor import Monitor
from pretrain.training.saving import REMEDY, Saver
from pretrain.training.signals import stop_on_signal
from pretrain.training.snapshot import check_state, restore
from pretrain.training.step import DTYPES, NonFiniteError
from pretrain.training.trackers import Trackers

logger = logging.getLogger(__name__)

MAX_NAMED_CLIPS = 8
"""Clips that a message names."""


class Trainer:
    """One run of a recipe.

    The folder ``recipe.out`` gets config.yaml (the recipe), metrics.jsonl (one line every ``log_every`` batches),
    states/ (everything that resuming needs) and last/, best/, ema/ (encoders in the package's own format).
    """

    def __init__(self, recipe: Recipe) -> None:
        """Open the corpus, and build the network or restore the run that is in ``recipe.out``.

        Raises:
            ValueError: the device, corpus or parent does not exist; another process trains in the folder; the run was
                begun with other settings.
        """
        self.recipe, self.run = recipe, Path(recipe.out)
        self.parallel = Parallel(recipe.device, recipe.sharding, recipe.model.layerdrop > 0)
        self.device = self.parallel.device
        if self.device.type == "cpu":
            if recipe.precision == "fp16":
                raise ValueError("precision fp16 needs a GPU, and none is used here: give --precision bf16 or fp32")
            keep_freed_memory()
        self.compiled = compiler_wanted(recipe.compile, self.device, recipe.model)
        self.sharding = BatchSharding(self.parallel.processes, self.parallel.rank, recipe.optim.accumulation_steps)
        new = not run_folder.states(self.run)
        if new and Path(recipe.data.corpus).is_dir() and self.run.resolve() == Path(recipe.data.corpus).resolve():
            raise ValueError(f"out {recipe.out}: the folder of the corpus itself; give another --out")
        parent = load_parent(recipe) if recipe.init is not None and new else None
        with self.parallel.main_first():  # the first process decodes the corpus and measures it, the others wait
            self.source = self._open_training(0)
            self.corpus = origin.Corpus.of(self.source, recipe.data.corpus, self.parallel.is_main)
            self.targets = open_targets(recipe, self.source)
            self.validation = open_validation(
                recipe.data, recipe.model, recipe.losses.crops, recipe.seed, self.sharding
            )
            # only now, so that a corpus that does not exist leaves no folder
            self.lock = run_folder.lock(self.run) if self.parallel.is_main else None
            state = run_folder.read_state(
                self.run, dataclasses.asdict(recipe), lambda found: check_state(found, recipe, self.targets.sizes)
            )
            normalisation = self._normalisation(state, parent)
        torch.manual_seed(recipe.seed)
        self.objective = build_objective(recipe, normalisation, self.targets.sizes).to(self.device)
        if parent is not None:
            self.objective.begin_with(parent.state)
        self.parallel.shard(self.objective)
        self.updater = build_updater(recipe, self.objective, self.parallel, self.targets)
        if self.compiled:
            one = self.sharding.number == 1 and recipe.model.layerdrop == 0
            vary = recipe.data.lengths_vary or recipe.masking.counts_vary
            compile_network(self.objective, self.device, vary, one)
        self.step, self.best, self.saved = 0, math.inf, -1
        self.meter = Meter(
            build_flops(recipe), peak_flops(self.device, DTYPES[recipe.precision]), self.sharding.processes
        )
        if state is not None:
            self._restore(state)
        self.saver = Saver(recipe, self.updater, self.corpus.name)
        self.failures = DecodeFailures(recipe.data.max_bad_share, unlisted(self.source))

    def _open_training(self, start: int) -> CropBatches | ShardBatches:
        recipe = self.recipe
        return open_training(
            recipe.data, recipe.model, recipe.losses.crops, recipe.seed, self.sharding, start, self.run.parent
        )

    def _normalisation(self, state: dict[str, Any] | None, parent: checkpoint.Loaded | None) -> Normalisation:
        """The statistics of the saved state, of the parent, of stats.json, or measured now."""
        if state is not None:
            return Normalisation(**state["normalisation"])
        if parent is not None:
            return parent.config.normalisation
        return origin.statistics_of(self.run, self.recipe, self.source, self.corpus)

    def _restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.step, self.best = state["step"], state["best"]
        restore(self.updater, state)
        if "meter" in state:
            self.meter.restore(state["meter"], self.device)
        if self.parallel.is_main:
            origin.warn_of_another_corpus(self.run, self.source, self.corpus, state)
        if isinstance(self.source, ShardBatches):
            self.source = self._open_training(self.step)

    def train(self) -> bool:
        """Train to the last batch, or for max_minutes. Ctrl-C or SIGTERM finishes the batch, saves and stops.

        Returns:
            False if a signal stopped it.

        Raises:
            ValueError: a loss became NaN or infinite, or too many clips could not be decoded; the last save stays.
            OSError: the disk is full; the last save stays.
        """
        try:
            return self._train()
        except NonFiniteError as error:
            raise ValueError(self._diverged(error)) from error
        finally:
            self.close()

    def _train(self) -> bool:
        recipe = self.recipe
        incoming = self._batches()  # first: the loader forks, which the threads of a tracker would not survive
        with run_folder.saving(self.run, self.step):
            report = self._open_report() if self.parallel.is_main else None
        monitor = Monitor(self.updater, report, recipe.probe)
        meter = self.meter
        self.objective.train()
        if self.compiled:
            self._compile()
        meter.begin()
        deadline = time.monotonic() + 60 * (recipe.max_minutes or math.inf)
        with stop_on_signal() as stop:
            for micro_batches in incoming:
                meter.add(self._update(micro_batches), micro_batches)
                self.step += 1
                if report is not None:
                    report.step()
                self._after(micro_batches, meter, monitor)
                if self.parallel.any(stop.is_set() or time.monotonic() > deadline):
                    break
            if self.saved != self.step:
                self.save()
            stopped = self.parallel.any(stop.is_set())
        if report is not None:
            report.close()
        if self.step < recipe.optim.steps:
            logger.warning("stopped at batch %d and saved: run the same command again to continue", self.step)
        elif self.parallel.is_main:
            logger.info("done: %s; try maeast embed AUDIO --checkpoint %s", self.run, shlex.quote(str(self.run)))
        return not stopped

    def _open_report(self) -> Report:
        """Write the recipe, start the trackers, and log what is trained."""
        recipe = self.recipe
        checkpoint.repair(self.run)
        run_folder.write_recipe(self.run, dataclasses.asdict(recipe))
        self.targets.write_record(self.run)
        trackers = Trackers(self.run, self.step, recipe.tensorboard, recipe.tracker)
        normalisation = self.objective.normalise.statistics
        if self.step >= recipe.optim.steps:
            logger.warning("%s: has %d of optim.steps %d batches already", self.run, self.step, recipe.optim.steps)
        logger.info(
            "%s: %.1f M parameters on %s (%d processes, %s), %s, mean %.4f, std %.4f, batches %d to %d",
            self.run,
            sum(p.numel() for p in self.objective.parameters()) / 1e6,
            self.device,
            self.sharding.processes,
            recipe.precision,
            self.saver.data,
            normalisation.mean,
            normalisation.std,
            self.step + 1,
            recipe.optim.steps,
        )
        return Report(self.run, self.step, recipe.optim.steps, trackers)

    def _batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of this process for each remaining update."""
        steps = self.recipe.optim.steps
        if self.step >= steps:
            return iter(())
        loader: Iterator[Batch]
        if self.recipe.data.on_gpu and self.device.type != "cpu":
            assert isinstance(self.source, CropBatches)
            loader = GpuBatches(self.source, self.device).range(self.step, steps)
        else:
            pin = self.device.type == "cuda"
            loader = iter(batches(self.source, self.step, steps, self.recipe.data.workers, pin))
        return (self._next(loader) for _ in range(self.step, steps))

    def _next(self, loader: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of the next update; their failures are counted."""
        micro_batches = [Batch(*batch) for batch in islice(loader, self.sharding.accumulation_steps)]
        for batch in micro_batches:
            self.failures.add(batch)
        return micro_batches

    def _compile(self) -> None:
        """Have the network compiled on noise of the shape of a micro-batch, the same in every session of a run."""
        start, (clips, seconds) = time.monotonic(), self.recipe.data.usual_batch
        clips //= self.sharding.number
        waveforms = torch.randn(clips * self.recipe.losses.crops, round(seconds * SAMPLE_RATE))
        lengths = torch.full((len(waveforms),), waveforms.shape[1])
        absent = (-1,) * clips  # clips without targets
        self.updater.warm_up(Batch(waveforms, lengths, 0, clips, absent, 0, (), torch.zeros_like(lengths), absent))
        logger.info("compiled the network in %.0f s", time.monotonic() - start)

    def _update(self, micro_batches: list[Batch]) -> dict[str, Tensor]:
        return self.updater.update(micro_batches, self.step)

    def _after(self, micro_batches: list[Batch], meter: Meter, monitor: Monitor) -> None:
        """Log, validate, probe and save if this batch is the time for it."""
        recipe, step = self.recipe, self.step
        if step % recipe.log_every == 0 or step == recipe.optim.steps:
            self._log(meter, monitor.report)
        if self.validation is not None and step % recipe.validate_every == 0:
            self._validate(self.validation, monitor)
        if recipe.probe is not None and step % recipe.probe_every == 0:
            monitor.probe(self.encoder_config(), step)
        if step % recipe.save_every == 0:
            if self.saved != step:
                self.save()
            monitor.pictures(micro_batches[0], step)

    def _log(self, meter: Meter, report: Report | None) -> None:
        """Log the means since the last line, over all processes."""
        self.updater.check()
        means = {name: self.parallel.add(value.clone()) for name, value in meter.means().items()}
        values = rounded({name: value / self.sharding.processes for name, value in means.items()})
        if report is not None:
            rate = float(f"{self.updater.rate(self.step - 1):.4g}")
            bad = {"bad_clips": len(self.failures.reasons)} if self.failures.reasons else {}
            report.line(self.step, {**values, "lr": rate, **meter.rates(), **bad})
        meter.reset()

    def _validate(self, source: CropBatches, monitor: Monitor) -> None:
        """Validate and save; the best validation so far keeps its state and its encoder."""
        recipe = self.recipe
        loss = monitor.validate(source, recipe.validate_batches, recipe.data.max_bad_share, self.step)
        better = loss < self.best
        self.best = min(loss, self.best)
        self.save()
        if better:
            self.saver.keep_best(self.step)

    def save(self) -> None:
        """Write a state and the encoders; see `Saver.save`."""
        meter = self.meter.state()
        processes = self.sharding.processes
        sums = {name: self.parallel.add(value.clone()).cpu() / processes for name, value in meter["sums"].items()}
        self.saver.save(
            self.step, self.best, {"corpus": dataclasses.asdict(self.corpus), "meter": {**meter, "sums": sums}}
        )
        self.saved = self.step

    def encoder_config(self) -> EncoderConfig:
        """The config.json of the encoder as it is now."""
        return self.saver.encoder_config(self.step)

    def _diverged(self, error: NonFiniteError) -> str:
        """The message of a loss that is not finite."""
        names = [self._clip_name(clip) for clip in error.clips[:MAX_NAMED_CLIPS]]
        more = f" and {len(error.clips) - len(names)} more" if len(error.clips) > len(names) else ""
        clips = f" on {', '.join(names)}{more}" if names else ""
        return f"batch {error.step + 1}: the loss or its gradient is NaN or infinite{clips}; not used; {REMEDY}"

    def _clip_name(self, clip: int | str) -> str:
        if clip == COMPUTED_CLIP:
            return "a computed sound"
        return clip if isinstance(clip, str) else self.source.clips.name(clip)  # type: ignore[union-attr]

    def close(self) -> None:
        """Release the run folder and leave the other processes."""
        if self.lock is not None:
            self.lock.release()
        self.parallel.close()


def unlisted(source: CropBatches | ShardBatches) -> Iterable[tuple[str, str]]:
    """Name and reason of each file that could not be listed; what packing left out was named when the corpus opened."""
    if not isinstance(source, CropBatches) or packed_corpus(source.clips) is not None:
        return ()
    return source.clips.failures.items()


def load_parent(recipe: Recipe) -> checkpoint.Loaded:
    """Load the checkpoint that a run begins with; ValueError if its shape is not the recipe's."""
    loaded = checkpoint.read(checkpoint.resolve(recipe.init))
    theirs = {f"model.{k}": v for k, v in dataclasses.asdict(loaded.config.model).items()}
    theirs |= {f"frontend.{k}": v for k, v in dataclasses.asdict(loaded.config.frontend).items()}
    for name, value in flatten({k: v for k, v in dataclasses.asdict(recipe).items() if k in ("model", "frontend")}):
        if value != theirs[name] and not name.endswith(("dropout", "layerdrop", "activations")):
            raise ValueError(f"init {recipe.init}: its {name} is {theirs[name]!r}, the recipe's {value!r}")
    return loaded

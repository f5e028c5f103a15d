"""Writes what a run saves: a state for resuming, and encoders in the package's own format."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from maeast_upstream import checkpoint
from maeast_upstream.config import EncoderConfig, Provenance
from pretrain.recipe import Recipe
from pretrain.training import run_folder
from pretrain.training.snapshot import snapshot
from pretrain.training.step import Updater

REMEDY = "the last save stays: lower optim.lr, or lengthen optim.warmup_steps, and begin with another --out"


class Saver:
    """Saves a run. Everything appears whole or not at all, and only the first process writes."""

    def __init__(self, recipe: Recipe, updater: Updater, data: str) -> None:
        """Remember what a save holds besides weights; ``data`` describes the corpus."""
        self.recipe, self.run = recipe, Path(recipe.out)
        self.updater, self.data = updater, data

    def encoder_config(self, step: int) -> EncoderConfig:
        """The config.json of the encoder after ``step`` updates."""
        recipe = self.recipe
        return EncoderConfig(
            model=recipe.model,
            frontend=recipe.frontend,
            normalisation=self.updater.objective.normalise.statistics,
            provenance=Provenance(
                data=self.data,
                steps=step,
                package=checkpoint.package_version(),
                parents=[recipe.init] if recipe.init else [],
            ),
        )

    def save(self, step: int, best: float, kept: Mapping[str, Any]) -> None:
        """Write a state, last/ and ema/.

        Args:
            step: updates so far.
            best: lowest validation loss so far.
            kept: what the state holds besides: plain values and tensors by name.

        Raises:
            NonFiniteError, ValueError: a loss or weight is NaN or infinite; nothing is written then.
            OSError: the disk is full; the save before stays.
        """
        self.updater.check()
        state = snapshot(self.updater)
        if not all(bool(value.isfinite().all()) for value in state["objective"].values()):
            raise ValueError(f"batch {step}: a weight is NaN or infinite; {REMEDY}")
        if self.updater.parallel.is_main:
            with run_folder.saving(self.run, step):
                self._write(step, best, {**kept, **state})
        self.updater.parallel.wait()

    def _write(self, step: int, best: float, state: dict[str, Any]) -> None:
        config = self.encoder_config(step)
        header = {
            "step": step,
            "best": best,
            "recipe": dataclasses.asdict(self.recipe),
            "normalisation": dataclasses.asdict(config.normalisation),
            "package": checkpoint.package_version(),
        }
        run_folder.write_state(self.run, {**header, **state}, self.recipe.keep_last)
        network = network_weights(state["objective"])
        checkpoint.save_state(self.run / "last", network, config)
        if state["average"] is not None:
            checkpoint.save_state(self.run / "ema", {**network, **state["average"]["values"]}, config)

    def keep_best(self, step: int) -> None:
        """Keep the newest state and its encoder as the best."""
        if self.updater.parallel.is_main:
            with run_folder.saving(self.run, step):
                run_folder.keep_best(self.run)
                checkpoint.save_folder(self.run / "best", self.updater.objective.network, self.encoder_config(step))


def network_weights(objective: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights among those of an objective."""
    return {name.removeprefix("network."): value for name, value in objective.items() if name.startswith("network.")}

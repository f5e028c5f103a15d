"""The training loop: batches in, a run folder out; stopped and started again, it ends as if it never stopped."""

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from maeast_upstream import checkpoint
from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.frontend import Fbank
from pretrain.config import OptimConfig, Recipe
from pretrain.data import CropBatches, batches
from pretrain.objective import Objective
from pretrain.pack import Packed, pack
from pretrain.stats import measure

logger = logging.getLogger(__name__)

CHANGEABLE = {"device", "log_every", "save_every", "compile", "out"}
"""What may differ when a run is continued, besides the length of the schedule and where the corpus lies."""


def learning_rate(step: int, optim: OptimConfig) -> float:
    """The rate of batch ``step`` (counted from 0): linear warm-up, constant, linear decay to 0."""
    warm = (step + 1) / max(1, optim.warmup_steps)
    left = (optim.steps - step) / max(1, optim.decay_steps)
    return optim.lr * min(1.0, warm, left)


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices; none on biases, norms and mask embeddings."""
    matrices = [p for p in module.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


class Trainer:
    """One run of a recipe.

    The folder ``recipe.out`` gets config.yaml (the recipe), log.jsonl (one line every ``log_every`` batches),
    state.pt (all that resuming needs) and last/ (the encoder, in the package's own format).
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.run = Path(recipe.out)
        self.device = torch.device(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.corpus = open_corpus(recipe)
        state = self._saved_state()
        views = 2 if recipe.losses.clip else 1
        self.crops = CropBatches(self.corpus, recipe.data, views, recipe.seed)
        loaded = None
        if state is not None:
            normalisation = Normalisation(**state["normalisation"])
        elif recipe.init is not None:
            loaded = load_parent(recipe)
            normalisation = loaded.config.normalisation
        else:
            normalisation = measure(self.crops, Fbank(recipe.frontend))
        logger.info("normalisation: mean %.4f, std %.4f", normalisation.mean, normalisation.std)
        torch.manual_seed(recipe.seed)
        self.objective = Objective(recipe, normalisation).to(self.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.objective, recipe.optim.weight_decay),
            lr=recipe.optim.lr,
            betas=(recipe.optim.beta1, recipe.optim.beta2),
            eps=recipe.optim.eps,
        )
        self.step = 0
        if loaded is not None:
            self.objective.network.load_state_dict(loaded.state)
        if state is not None:
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            logger.info("continuing %s at batch %d", self.run, self.step)
        self.forward = torch.compile(self.objective) if recipe.compile else self.objective

    def train(self) -> None:
        """Run to the last batch; Ctrl-C saves and stops."""
        recipe = self.recipe
        self.run.mkdir(parents=True, exist_ok=True)
        write_atomically(self.run / "config.yaml", yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False))
        self.objective.train()
        sums: dict[str, Tensor] = {}
        since = time.monotonic()
        try:
            for waveforms in batches(self.crops, self.step, recipe.optim.steps, recipe.data.workers):
                for name, value in self._batch(waveforms).items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
                self.step += 1
                if self.step % recipe.log_every == 0:
                    self._log(sums, len(waveforms) * recipe.log_every / (time.monotonic() - since))
                    sums, since = {}, time.monotonic()
                if self.step % recipe.save_every == 0:
                    self.save()
        except KeyboardInterrupt:
            logger.warning("stopped at batch %d; the same command goes on from there", self.step)
        self.save()

    def _batch(self, waveforms: Tensor) -> dict[str, Tensor]:
        """One optimiser step; the losses and the gradient's norm."""
        seed = self.recipe.seed * 1_000_003 + self.step  # so that a resumed run draws what an uninterrupted one would
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe.optim)
        patches = self.objective.patches(waveforms.to(self.device, non_blocking=True))
        visible, masked = self.objective.draw_masks(patches, generator)
        bf16 = self.recipe.precision == "bf16"
        with (
            fast_attention(self.device),
            torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
        ):
            losses = self.forward(patches, visible, masked)
            losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.optim.grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {**{name: value.detach() for name, value in losses.items()}, "grad_norm": norm}

    def _log(self, sums: dict[str, Tensor], crops_per_second: float) -> None:
        means = {name: round(float(value) / self.recipe.log_every, 5) for name, value in sums.items()}
        line = {
            "step": self.step,
            **means,
            "lr": float(f"{learning_rate(self.step - 1, self.recipe.optim):.4g}"),
            "crops_per_second": round(crops_per_second, 1),
        }
        logger.info(" ".join(f"{key} {value}" for key, value in line.items()))
        with (self.run / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write state.pt and the encoder; each appears whole or not at all."""
        state = {
            "step": self.step,
            "recipe": dataclasses.asdict(self.recipe),
            "normalisation": dataclasses.asdict(self.objective.normalisation),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = self.run / "state.pt.part"
        torch.save(state, part)
        os.replace(part, self.run / "state.pt")
        checkpoint.save_folder(self.run / "last", self.objective.network, self.encoder_config())

    def encoder_config(self) -> EncoderConfig:
        """What last/config.json says."""
        recipe = self.recipe
        data = f"{self.corpus.hours:.1f} h, {len(self.corpus.lengths)} clips of {Path(recipe.data.corpus).name}"
        return EncoderConfig(
            model=recipe.model,
            frontend=recipe.frontend,
            normalisation=self.objective.normalisation,
            provenance=Provenance(
                data=data,
                steps=self.step,
                package=checkpoint.package_version(),
                parents=[recipe.init] if recipe.init else [],
            ),
        )

    def _saved_state(self) -> dict[str, Any] | None:
        path = self.run / "state.pt"
        if not path.exists():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        refuse_changes(state["recipe"], dataclasses.asdict(self.recipe), self.run)
        return state


def load_parent(recipe: Recipe) -> checkpoint.Loaded:
    """The checkpoint that a run begins with; ValueError if it is not of the recipe's shape."""
    loaded = checkpoint.read(checkpoint.resolve(recipe.init))
    for name, ours in dataclasses.asdict(recipe.model).items():
        theirs = getattr(loaded.config.model, name)
        if ours != theirs and not name.endswith(("dropout", "layerdrop", "activations")):
            raise ValueError(f"init {recipe.init}: its model.{name} is {theirs!r}, the recipe's {ours!r}")
    return loaded


def refuse_changes(before: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    """ValueError if a run would be continued with a setting that changes what it learns, naming both values."""
    pairs = dict(zip(_flat(before), _flat(now), strict=True))
    for (name, old), (_, new) in pairs.items():
        free = name in CHANGEABLE or name.endswith("steps") or name in ("data.corpus", "data.packed", "data.workers")
        if old != new and not free:
            raise ValueError(
                f"{run} was begun with {name} {old!r}, not {new!r}: give another --out, or the same setting"
            )


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def open_corpus(recipe: Recipe) -> Packed:
    """The recipe's corpus, decoded on first use."""
    corpus = Path(recipe.data.corpus)
    return pack(corpus, Path(recipe.data.packed or corpus / "packed"), max(1, recipe.data.workers))


def fast_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU, torch's flash attention is slower than plain products for the few tokens of a masked crop (1.18x)."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)

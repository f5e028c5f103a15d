"""The training loop: batches in, a run folder out; stopped and started again, it ends as if it never stopped."""

import contextlib
import dataclasses
import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from maeast_upstream import checkpoint
from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.frontend import Fbank
from maeast_upstream.packed import Packed
from maeast_upstream.settings import flatten
from pretrain import run
from pretrain.config import Recipe
from pretrain.data import CropBatches, batches
from pretrain.interrupt import stop_on_signal
from pretrain.objective import Objective
from pretrain.pack import pack
from pretrain.schedule import learning_rate, make_optimizer
from pretrain.stats import measure

logger = logging.getLogger(__name__)


class Trainer:
    """One run of a recipe.

    The folder ``recipe.out`` gets config.yaml (the recipe), log.jsonl (one line every ``log_every`` batches),
    state.pt (all that resuming needs) and last/ (the encoder, in the package's own format).
    """

    def __init__(self, recipe: Recipe) -> None:
        """Open the corpus, and build the network or take up the run that lies in ``recipe.out``.

        Raises:
            ValueError: no such device, corpus or parent, or the run was begun with other settings.
        """
        self.recipe = recipe
        self.run = Path(recipe.out)
        self.device = pick_device(recipe.device)
        state = run.read_state(self.run, dataclasses.asdict(recipe))
        parent = load_parent(recipe) if recipe.init is not None and state is None else None
        self.corpus = open_corpus(recipe)
        self.crops = CropBatches(self.corpus, recipe.data, recipe.losses.views, recipe.seed)
        if state is not None:
            normalisation = Normalisation(**state["normalisation"])
        elif parent is not None:
            normalisation = parent.config.normalisation
        else:
            normalisation = measure(self.crops, Fbank(recipe.frontend))
        torch.manual_seed(recipe.seed)
        self.objective = Objective(recipe, normalisation).to(self.device)
        self.optimizer = make_optimizer(self.objective, recipe.optim)
        self.step = 0
        if parent is not None:
            self.objective.network.load_state_dict(parent.state)
        if state is not None:
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
        self.forward = torch.compile(self.objective) if recipe.compile else self.objective

    def train(self) -> bool:
        """Run to the last batch, or for max_minutes; Ctrl-C finishes the batch, saves and stops.

        Returns:
            False if a signal stopped it.

        Raises:
            ValueError: a loss became NaN or infinite; the run's last save stays as it was.
        """
        recipe = self.recipe
        run.write_recipe(self.run, dataclasses.asdict(recipe))
        run.cut_log(self.run, self.step)
        self._announce()
        self.objective.train()
        log = Log(self.run)
        until = time.monotonic() + 60 * (recipe.max_minutes or math.inf)
        with stop_on_signal() as stop:
            for waveforms in batches(self.crops, self.step, recipe.optim.steps, recipe.data.workers):
                log.add(self._batch(waveforms), len(waveforms))
                self.step += 1
                if self.step % recipe.log_every == 0:
                    log.write(self.step, learning_rate(self.step - 1, recipe.optim))
                if self.step % recipe.save_every == 0:
                    self.save()
                if stop.is_set() or time.monotonic() > until:
                    break
            self.save()
        if self.step < recipe.optim.steps:
            logger.warning("stopped at batch %d and saved; the same command goes on from there", self.step)
        return not stop.is_set()

    def _announce(self) -> None:
        parameters = sum(p.numel() for p in self.objective.parameters()) / 1e6
        normalisation = self.objective.normalisation
        logger.info(
            "%s: %.1f M parameters on %s, %.2f h in %d clips, mean %.4f, std %.4f, batches %d to %d",
            self.run,
            parameters,
            self.device,
            self.corpus.hours,
            len(self.corpus.lengths),
            normalisation.mean,
            normalisation.std,
            self.step + 1,
            self.recipe.optim.steps,
        )

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

    def save(self) -> None:
        """Write state.pt and the encoder; each appears whole or not at all.

        Raises:
            ValueError: a weight is NaN or infinite; nothing is written then.
        """
        if not all(bool(value.isfinite().all()) for value in self.objective.parameters()):
            raise ValueError(diverged(self.step, "a weight is NaN or infinite"))
        run.write_state(
            self.run,
            {
                "step": self.step,
                "recipe": dataclasses.asdict(self.recipe),
                "normalisation": dataclasses.asdict(self.objective.normalisation),
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )
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


class Log:
    """Means over the batches since the last line, written to log.jsonl and to the terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.batches, self.crops, self.since = 0, 0, time.monotonic()

    def add(self, values: dict[str, Tensor], crops: int) -> None:
        """Take up one batch; the values stay on their device, because reading them would wait for it."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.batches += 1
        self.crops += crops

    def write(self, step: int, lr: float) -> None:
        """One line; ValueError if the loss is not finite."""
        means = {name: round(float(value) / self.batches, 5) for name, value in self.sums.items()}
        if not math.isfinite(means["loss"]):
            raise ValueError(diverged(step, f"the loss is {means['loss']}"))
        speed = round(self.crops / (time.monotonic() - self.since), 1)
        line = {"step": step, **means, "lr": float(f"{lr:.4g}"), "crops_per_second": speed}
        logger.info(" ".join(f"{key} {value}" for key, value in line.items()))
        run.append_log(self.folder, line)
        self._reset()


def diverged(step: int, what: str) -> str:
    """The message for a run that cannot go on."""
    return f"batch {step}: {what}; lower optim.lr, or lengthen optim.warmup_steps, and begin with another --out"


def pick_device(name: str | None) -> torch.device:
    """A device by name; None takes a GPU if there is one. ValueError if there is no such device."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: torch sees {torch.cuda.device_count()} CUDA devices; give cpu")
    return device


def load_parent(recipe: Recipe) -> checkpoint.Loaded:
    """The checkpoint that a run begins with; ValueError if it is not of the recipe's shape."""
    loaded = checkpoint.read(checkpoint.resolve(recipe.init))
    theirs = {f"model.{k}": v for k, v in dataclasses.asdict(loaded.config.model).items()}
    theirs |= {f"frontend.{k}": v for k, v in dataclasses.asdict(loaded.config.frontend).items()}
    for name, value in flatten({k: v for k, v in dataclasses.asdict(recipe).items() if k in ("model", "frontend")}):
        if value != theirs[name] and not name.endswith(("dropout", "layerdrop", "activations")):
            raise ValueError(f"init {recipe.init}: its {name} is {theirs[name]!r}, the recipe's {value!r}")
    return loaded


def open_corpus(recipe: Recipe) -> Packed:
    """The recipe's corpus, decoded on first use."""
    corpus = Path(recipe.data.corpus)
    return pack(corpus, Path(recipe.data.packed or corpus / "packed"), recipe.data.workers)


def fast_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU, torch's flash attention is slower than plain products for the few tokens of a masked crop (1.18x)."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()

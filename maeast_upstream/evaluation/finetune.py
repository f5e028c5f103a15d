"""Fine-tuning on one labelled set: epochs, the best on valid, resuming."""

import dataclasses
import json
import logging
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from maeast_upstream import checkpoint
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.labels import SPLITS
from maeast_upstream.encoder import Precision
from maeast_upstream.evaluation.augment import SpecAugment, mix
from maeast_upstream.evaluation.classifier import Classifier, load_encoder, one_hot, shuffled
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.settings import refuse_changes

logger = logging.getLogger(__name__)

STATE_NAME, ENCODER_NAME, HEAD_NAME, LOG_NAME = "state.pt", "encoder", "head.safetensors", "log.jsonl"
STATE_KEYS = {"settings", "model", "optimizer", "epoch", "best_epoch", "best_valid", "best"}
WARMUP_SHARE = 0.1
"""Of all batches: the learning rates rise, then fall as a cosine to 0."""
EVALUATED = 64
"""Clips that are classified at once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a fine-tuning."""

    checkpoint: str | None = None
    epochs: int = 20
    batch_clips: int = 16
    lr: float = 1e-3
    """Of the head."""
    encoder_lr: float = 1e-4
    """Of the encoder's last layer."""
    layer_decay: float = 0.75
    """Each layer learns at this share of the rate of the one above."""
    weight_decay: float = 0.01
    mixup: float = 0.0
    """Alpha of the Beta distribution; 0 for none."""
    mask_frames: int = 0
    mask_mels: int = 0
    positions: Literal["sinusoid", "none"] | None = None
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name.replace('_', '-')} must be a finite number, got {value}")
        if self.epochs < 1 or self.batch_clips < 1:
            raise ValueError(f"epochs and batch-clips must be at least 1, got {self.epochs} and {self.batch_clips}")
        if self.lr <= 0 or self.encoder_lr < 0 or self.weight_decay < 0:
            raise ValueError(
                "lr must be above 0, encoder-lr and weight-decay not negative; "
                f"got {self.lr}, {self.encoder_lr}, {self.weight_decay}"
            )
        if not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"layer-decay must lie in (0, 1], got {self.layer_decay}")
        if min(self.mixup, self.mask_frames, self.mask_mels) < 0:
            raise ValueError(
                f"mixup, mask-frames and mask-mels must not be negative, got {self.mixup}, {self.mask_frames}, "
                f"{self.mask_mels}"
            )


@dataclass(frozen=True)
class TunedScore:
    """Accuracies of the epoch that was best on valid, in per cent."""

    valid: float
    test: float
    epoch: int
    """Counted from 1."""


class FineTuning:
    """One set's: ``folder`` gets state.pt, log.jsonl and at the end encoder/ (a checkpoint) and head.safetensors."""

    def __init__(self, one: LabelledSet, settings: Settings, folder: Path, device: str | None) -> None:
        """Read the clips, and build the classifier or take up what lies in ``folder``.

        Raises:
            ValueError: as in `load_model`; a clip that cannot be read; ``folder`` was begun with other settings.
        """
        self.one, self.settings, self.folder = one, settings, folder
        self.names = sorted({str(label) for label in one.labels})
        encoder = load_encoder(
            settings.checkpoint,
            device,
            settings.precision,
            settings.positions,
            SpecAugment(frames=settings.mask_frames, mels=settings.mask_mels),
        )
        self.model = Classifier(encoder, len(self.names), settings.seed)
        groups = self.model.parameter_groups(settings.lr, settings.encoder_lr, settings.layer_decay)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.clips = {split: self._read(split) for split in SPLITS}
        counts = {split: len(clips) for split, (clips, _) in self.clips.items()}
        own = {"clips": counts, "classes": self.names, "labels": one.digest()}
        self.described = {**dataclasses.asdict(settings), **own}
        self.epoch, self.best_epoch, self.best_valid = 0, 0, -1.0
        self.best: dict[str, Tensor] = {}
        self._resume()

    def _read(self, split: str) -> tuple[list[Tensor], Tensor]:
        rows = [row for row, other in enumerate(self.one.splits) if other == split]
        classes = torch.tensor([self.names.index(str(self.one.labels[row])) for row in rows])
        return [torch.from_numpy(read_audio(self.one.paths[row])) for row in rows], classes

    def _resume(self) -> None:
        path = self.folder / STATE_NAME
        if not path.exists():
            return
        strange = f"{path}: not the state of a fine-tuning, or a broken one; remove it to begin anew"
        try:
            state = torch.load(path, map_location=self.model.encoder.device, weights_only=True)
        except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
            raise ValueError(strange) from error
        if not isinstance(state, dict) or not state.keys() >= STATE_KEYS:
            raise ValueError(strange)
        refuse_changes(state["settings"], self.described, self.folder, "give another --out, or the same setting")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best_epoch, self.best_valid = state["epoch"], state["best_epoch"], state["best_valid"]
        self.best = state["best"]

    def run(self) -> TunedScore:
        """All epochs that are left; test is read once, by the epoch that was best on valid.

        Raises:
            ValueError: the loss or a weight became NaN or infinite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        while self.epoch < self.settings.epochs:
            loss = self._epoch()
            valid = self.accuracy("valid")
            self.epoch += 1
            if valid > self.best_valid:
                self.best_epoch, self.best_valid = self.epoch, valid
                self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
            logger.info("%s: epoch %d, loss %.4f, valid %.1f", self.one.name, self.epoch, loss, valid)
            self._save()
            with (self.folder / LOG_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": self.epoch, "loss": round(loss, 5), "valid": round(valid, 2)}) + "\n")
        self.model.load_state_dict(self.best)
        self._export()
        return TunedScore(self.best_valid, self.accuracy("test"), self.best_epoch)

    def _epoch(self) -> float:
        """The mean loss."""
        settings, device = self.settings, self.model.encoder.device
        clips, classes = self.clips["train"]
        # an epoch owns its chance, so that a resumed one draws what an uninterrupted one would
        seed = settings.seed * 100_003 + self.epoch
        generator = torch.Generator().manual_seed(seed)
        self.model.encoder.generator = torch.Generator().manual_seed(seed)
        batches = list(shuffled(len(clips), settings.batch_clips, generator))
        total = 0.0
        self.model.train()
        with torch.random.fork_rng():  # dropout takes no generator
            torch.manual_seed(seed)
            for number, rows in enumerate(batches):
                self._set_rates(self.epoch * len(batches) + number, settings.epochs * len(batches))
                mixed, targets = mix(
                    [clips[row] for row in rows], one_hot(classes[rows], len(self.names)), settings.mixup, generator
                )
                loss = F.cross_entropy(self.model(mixed), targets.to(device))
                self._refuse_unless(bool(loss.isfinite()), "the loss is")
                self.optimizer.zero_grad()
                torch.autograd.backward(loss)
                self.optimizer.step()
                total += float(loss.detach()) * len(rows)
        finite = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        self._refuse_unless(finite, "weights are")
        return total / len(clips)

    def _refuse_unless(self, finite: bool, what: str) -> None:
        if not finite:
            raise ValueError(f"{self.one.name}, epoch {self.epoch + 1}: {what} NaN or infinite; lower lr or encoder-lr")

    def _set_rates(self, step: int, steps: int) -> None:
        warmup = max(1, round(WARMUP_SHARE * steps))
        share = (
            (step + 1) / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
        )
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share

    @torch.no_grad()
    def accuracy(self, split: str) -> float:
        """In per cent, with the weights as they are."""
        self.model.eval()
        clips, classes = self.clips[split]
        parts = [self.model(clips[first : first + EVALUATED]) for first in range(0, len(clips), EVALUATED)]
        return 100 * float((torch.cat(parts).argmax(dim=1).cpu() == classes).double().mean())

    def _save(self) -> None:
        state = {
            "settings": self.described,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_valid": self.best_valid,
            "best": self.best,
        }
        with replacing(self.folder / STATE_NAME) as part:
            torch.save(state, part)

    def _export(self) -> None:
        encoder = self.model.encoder
        checkpoint.save_folder(self.folder / ENCODER_NAME, encoder.network, encoder.config)
        head = {name: value.detach().cpu().contiguous() for name, value in self.model.head.state_dict().items()}
        with replacing(self.folder / HEAD_NAME) as part:
            save_file(head, part, metadata={"classes": json.dumps(self.names)})


def finetune(
    sets: Sequence[LabelledSet], settings: Settings, out: Path, device: str | None = None
) -> dict[str, TunedScore]:
    """Fine-tune on each set by itself, in a folder of its name; what is finished is only read again."""
    return {one.name: FineTuning(one, settings, out / one.name, device).run() for one in sets}

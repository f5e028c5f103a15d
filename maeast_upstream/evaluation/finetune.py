"""Fine-tunes an encoder on a labelled set, keeps the epoch with the best valid accuracy, and resumes."""

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from maeast_upstream import checkpoint
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.checkpoint.states import disk_errors, read_whole, write_whole
from maeast_upstream.classification.folder import ENCODER_NAME, CheckpointSource
from maeast_upstream.data.labels import SPLITS
from maeast_upstream.evaluation.augment import SpecAugment, mix
from maeast_upstream.evaluation.classifier import READOUT, FineTunedNetwork, load_encoder, one_hot, shuffled
from maeast_upstream.evaluation.finetune_config import FinetuneConfig
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.evaluation.saving import Head, calibrated
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.messages import shortened
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.settings import refuse_changes

logger = logging.getLogger(__name__)

STATE_NAME, HEAD_NAME, LOG_NAME = "state.pt", "head.safetensors", "log.jsonl"
STATE_KEYS = {"settings", "model", "optimizer", "epoch", "best_epoch", "best_valid", "best"}
WARMUP_SHARE = 0.1
"""Share of all batches in which the learning rates rise; after it they fall as a cosine to 0."""
EVALUATION_CLIPS = 64
"""Clips in a batch that is only classified."""


@dataclass(frozen=True)
class TunedScore:
    """Accuracies of the epoch with the best valid accuracy, in per cent."""

    valid: float
    test: float
    epoch: int
    """Counted from 1."""


class FineTuning:
    """The fine-tuning on one labelled set.

    Its folder gets state.pt and log.jsonl, and at the end encoder/ (a checkpoint), head.safetensors, and the files of a
    `Classifier`, which uses that encoder.
    """

    def __init__(self, labelled_set: LabelledSet, config: FinetuneConfig, folder: Path, device: str | None) -> None:
        """Read the clips and build the classifier, or load both from what an interrupted run left in ``folder``.

        Raises:
            ValueError: as in `load_model`; a clip that cannot be read; ``folder`` was begun with other settings.
        """
        self.labelled_set, self.config, self.folder = labelled_set, config, folder
        self.names = sorted({str(label) for label in labelled_set.labels})
        encoder = load_encoder(
            config.checkpoint,
            device,
            config.precision,
            config.positions,
            SpecAugment(frames=config.mask_frames, mels=config.mask_mels),
        )
        self.model = FineTunedNetwork(encoder, len(self.names), config.seed)
        groups = self.model.parameter_groups(config.lr, config.encoder_lr, config.layer_decay)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.clips = {split: self._read(split) for split in SPLITS}
        counts = {split: len(clips) for split, (clips, _) in self.clips.items()}
        data = {"clips": counts, "classes": self.names, "labels": labelled_set.digest()}
        self.settings = {**dataclasses.asdict(config), **data}
        self.epoch, self.best_epoch, self.best_valid = 0, 0, -1.0
        self.best: dict[str, Tensor] = {}
        self._resume()

    def _read(self, split: str) -> tuple[list[Tensor], Tensor]:
        rows = [row for row, other in enumerate(self.labelled_set.splits) if other == split]
        classes = torch.tensor([self.names.index(str(self.labelled_set.labels[row])) for row in rows])
        return [torch.from_numpy(read_audio(self.labelled_set.paths[row])) for row in rows], classes

    def _resume(self) -> None:
        path = self.folder / STATE_NAME
        if not path.exists():
            return
        problem = f"{path}: not the state of a fine-tuning, or a broken one"
        try:
            state = read_whole(path, self.model.encoder.device)
            if not isinstance(state, dict) or not state.keys() >= STATE_KEYS or not isinstance(state["settings"], dict):
                raise ValueError("its entries are others")
        except ValueError as error:
            raise ValueError(f"{problem} ({error}); remove it to start again") from error
        refuse_changes(state["settings"], self.settings, self.folder, "give another --out, or the same setting")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{problem} ({shortened(error)}); remove it to start again") from error
        self.epoch, self.best_epoch, self.best_valid = state["epoch"], state["best_epoch"], state["best_valid"]
        self.best = state["best"]

    def run(self) -> TunedScore:
        """Train the remaining epochs, then score test once with the epoch that has the best valid accuracy.

        Raises:
            ValueError: the loss or a weight became NaN or infinite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        while self.epoch < self.config.epochs:
            loss = self._epoch()
            valid = self.accuracy("valid")
            self.epoch += 1
            if valid > self.best_valid:
                self.best_epoch, self.best_valid = self.epoch, valid
                self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
            logger.info("%s: epoch %d, loss %.4f, valid %.1f", self.labelled_set.name, self.epoch, loss, valid)
            self._save()
            with (self.folder / LOG_NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": self.epoch, "loss": round(loss, 5), "valid": round(valid, 2)}) + "\n")
        self.model.load_state_dict(self.best)
        score = TunedScore(self.best_valid, self.accuracy("test"), self.best_epoch)
        self._export(score)
        return score

    def _epoch(self) -> float:
        """Train one epoch and return the mean loss."""
        config, device = self.config, self.model.encoder.device
        clips, classes = self.clips["train"]
        # seeded by epoch, so that a resumed run draws what an uninterrupted one would
        seed = config.seed * 100_003 + self.epoch
        generator = torch.Generator().manual_seed(seed)
        self.model.encoder.generator = torch.Generator().manual_seed(seed)
        batches = list(shuffled(len(clips), config.batch_clips, generator))
        total = 0.0
        self.model.train()
        with torch.random.fork_rng():  # dropout takes no generator
            torch.manual_seed(seed)
            for number, rows in enumerate(batches):
                self._set_rates(self.epoch * len(batches) + number, config.epochs * len(batches))
                mixed, targets = mix(
                    [clips[row] for row in rows], one_hot(classes[rows], len(self.names)), config.mixup, generator
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
            raise ValueError(
                f"{self.labelled_set.name}, epoch {self.epoch + 1}: {what} NaN or infinite; lower lr or encoder-lr"
            )

    def _set_rates(self, step: int, steps: int) -> None:
        warmup = max(1, round(WARMUP_SHARE * steps))
        share = (
            (step + 1) / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
        )
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share

    @torch.no_grad()
    def accuracy(self, split: str) -> float:
        """Return the accuracy of the present weights on a split, in per cent."""
        _, classes = self.clips[split]
        return 100 * float((self._logits(split).argmax(dim=1) == classes).double().mean())

    @torch.no_grad()
    def _logits(self, split: str) -> Tensor:
        """Classify the clips of a split: (clips, classes) on the CPU."""
        self.model.eval()
        clips, _ = self.clips[split]
        parts = [
            self.model(clips[first : first + EVALUATION_CLIPS]) for first in range(0, len(clips), EVALUATION_CLIPS)
        ]
        return torch.cat(parts).cpu()

    def _save(self) -> None:
        state = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_valid": self.best_valid,
            "best": self.best,
        }
        write_whole(self.folder / STATE_NAME, state)

    def _export(self, score: TunedScore) -> None:
        encoder = self.model.encoder
        checkpoint.save_folder(self.folder / ENCODER_NAME, encoder.network, encoder.config)
        head = {name: value.detach().cpu().contiguous() for name, value in self.model.head.state_dict().items()}
        with disk_errors(self.folder / HEAD_NAME), replacing(self.folder / HEAD_NAME) as part:
            save_file(head, part, metadata={"classes": json.dumps(self.names)})
        calibrated(
            Head(head["weight"].numpy(), head["bias"].numpy()),
            self.names,
            valid=(self._logits("valid").double().numpy(), self.clips["valid"][1].numpy()),
            source=CheckpointSource(str(self.folder / ENCODER_NAME), fingerprint(encoder)),
            readout=READOUT,
            about={"clips": self.settings["clips"], "finetuned": dataclasses.asdict(score)},
        ).save(self.folder)


def finetune(
    sets: Sequence[LabelledSet], config: FinetuneConfig, out: Path, device: str | None = None
) -> dict[str, TunedScore]:
    """Fine-tune a copy of the encoder on each set, in a folder of its name; finished epochs are not repeated."""
    return {each.name: FineTuning(each, config, out / each.name, device).run() for each in sets}

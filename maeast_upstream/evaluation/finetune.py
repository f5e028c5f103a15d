"""Fine-tunes an encoder on a labelled set, from the probe's classifier on, and resumes.

The head begins as the probe: logistic regression on the frozen encoder's vectors, so that no random head distorts the
encoder (Kumar et al., arXiv 2202.10054). In an epoch the encoder is trained at small rates, each clip with the loss of
a head that was fitted on other clips (see `folds`); then the probe is fitted again. Without folds there is one head,
which is trained with the encoder and has the probe's penalty. The epoch with the best valid accuracy is kept, the
beginning included.
"""

import argparse
import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from maeast_upstream import checkpoint
from maeast_upstream.arguments import readout_from
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.checkpoint.places import BUNDLED_NAME
from maeast_upstream.checkpoint.states import disk_errors, read_whole, write_whole
from maeast_upstream.classification.folder import ENCODER_NAME, CheckpointSource
from maeast_upstream.data.labels import SPLITS
from maeast_upstream.evaluation.augment import SpecAugment, mix
from maeast_upstream.evaluation.classifier import FineTunedNetwork, load_encoder, one_hot, shuffled
from maeast_upstream.evaluation.finetune_config import FinetuneConfig
from maeast_upstream.evaluation.folds import FoldHeads, draw_folds, fit_fold_heads
from maeast_upstream.evaluation.labelled_set import LabelledSet
from maeast_upstream.evaluation.linear_probe import fit_probe
from maeast_upstream.evaluation.saving import calibrated
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.messages import shortened
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.settings import refuse_changes
from maeast_upstream.version import __version__

logger = logging.getLogger(__name__)

STATE_NAME, HEAD_NAME, LOG_NAME = "state.pt", "head.safetensors", "log.jsonl"
STATE_KEYS = {"settings", "model", "optimizer", "c", "epoch", "start_valid", "best_epoch", "best_valid", "best"}
EARLIER_KEYS = {"settings", "model", "optimizer", "epoch", "best_epoch", "best_valid", "best"}
"""Of a state that version 0.1.0 wrote, whose head was random and averaged the last layer's tokens."""
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
    """Counted from 1; 0 if no epoch was better on valid than the probe."""
    start: float
    """Accuracy on valid before the first epoch: that of the probe."""


class FineTuning:
    """The fine-tuning on one labelled set.

    Its folder gets state.pt and log.jsonl, and at the end encoder/ (a checkpoint), head.safetensors, and the files of a
    `Classifier`, which uses that encoder.
    """

    def __init__(self, labelled_set: LabelledSet, config: FinetuneConfig, folder: Path, device: str | None) -> None:
        """Read the clips and build the classifier, or load both from what an interrupted run left in ``folder``.

        Raises:
            ValueError: as in `load_model`; the model lacks what the settings name; a clip that cannot be read;
                ``folder`` was begun with other settings, or by an earlier version.
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
        # the settings have the names of the options
        readout = readout_from(argparse.Namespace(**dataclasses.asdict(config)), encoder.config.readout)
        self.model = FineTunedNetwork(encoder, readout, len(self.names))
        groups = self.model.prepare_training(config)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.clips = {split: self._read(split) for split in SPLITS}
        counts = {split: len(clips) for split, (clips, _) in self.clips.items()}
        data = {"clips": counts, "classes": self.names, "labels": labelled_set.digest()}
        self.settings = {**dataclasses.asdict(config), **data}
        self.epoch, self.best_epoch, self.best_valid, self.start_valid, self.c = 0, 0, -1.0, -1.0, 0.0
        self.best: dict[str, Tensor] = {}
        self.train_vectors: Tensor | None = None
        """Of the present weights, where they have been computed."""
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
            if isinstance(state, dict) and state.keys() == EARLIER_KEYS:
                raise ValueError("an earlier version began it, whose fine-tuning was another")
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
        for name in STATE_KEYS - {"settings", "model", "optimizer"}:
            setattr(self, name, state[name])

    def run(self) -> TunedScore:
        """Train the remaining epochs, then score test once with the epoch that has the best valid accuracy.

        Raises:
            ValueError: the loss or a weight became NaN or infinite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.best:
            loss, self.start_valid = self._fit_head()
            self._keep_if_better(loss, self.start_valid)
        while self.epoch < self.config.epochs and not self._stalls():
            loss = self._epoch()
            valid = self._fit_head()[1] if self._has_folds else self.accuracy("valid")
            self.epoch += 1
            self._keep_if_better(loss, valid)
        self.model.load_state_dict(self.best)
        self.model.merge()
        score = TunedScore(self.best_valid, self.accuracy("test"), self.best_epoch, self.start_valid)
        self._export(score)
        return score

    def _stalls(self) -> bool:
        """Whether no further epoch is worth its time: the last ones were not better on valid, or none can be."""
        patience = self.config.patience
        return patience > 0 and (self.epoch - self.best_epoch >= patience or self.best_valid == 100.0)

    @property
    def _has_folds(self) -> bool:
        """Whether folds classify: their heads are not trained, so that the encoder has to be."""
        return self.config.folds > 0 and any(each.requires_grad for each in self.model.encoder.parameters())

    def _fit_head(self) -> tuple[float, float]:
        """Fit the probe on the present encoder's vectors as the head; return its train loss and valid accuracy."""
        vectors = {split: self._vectors(split) for split in ("train", "valid")}
        splits = np.repeat(list(vectors), [len(each) for each in vectors.values()])
        labels = np.array(self.names)[torch.cat([self.clips[split][1] for split in vectors]).numpy()]
        fitted = fit_probe(torch.cat(list(vectors.values())).numpy(), labels, splits)
        self.model.use_head(fitted.head)
        self.c, self.train_vectors = fitted.c, vectors["train"]
        train, valid = (self._classified(each) for each in vectors.values())
        return float(F.cross_entropy(train, self.clips["train"][1])), self._accuracy_of(valid, "valid")

    def _fold_heads(self, generator: torch.Generator) -> FoldHeads:
        vectors = self._vectors("train") if self.train_vectors is None else self.train_vectors
        classes = self.clips["train"][1]
        folds = draw_folds(classes, self.config.folds, generator)
        x = self.model.linear.standardization(vectors.numpy())
        return fit_fold_heads(x, classes, folds, self.c, self.model.encoder.device)

    def _keep_if_better(self, loss: float, valid: float) -> None:
        """Log an epoch, keep its weights if they are the best on valid, and save the state."""
        if valid > self.best_valid:
            self.best_epoch, self.best_valid = self.epoch, valid
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        logger.info("%s: epoch %d, loss %.4f, valid %.1f", self.labelled_set.name, self.epoch, loss, valid)
        self._save()
        with (self.folder / LOG_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": self.epoch, "loss": round(loss, 5), "valid": round(valid, 2)}) + "\n")

    def _epoch(self) -> float:
        """Train one epoch and return the mean cross-entropy."""
        config, device = self.config, self.model.encoder.device
        clips, classes = self.clips["train"]
        penalty = 0.5 / (self.c * len(clips))  # the probe's: C multiplies the sum of the clips' losses
        # seeded by epoch, so that a resumed run draws what an uninterrupted one would
        seed = config.seed * 100_003 + self.epoch
        generator = torch.Generator().manual_seed(seed)
        self.model.encoder.generator = torch.Generator().manual_seed(seed)
        heads = self._fold_heads(generator) if self._has_folds else None
        batches = list(shuffled(len(clips), config.batch_clips, generator))
        self.train_vectors, total = None, 0.0
        self.model.train()
        with torch.random.fork_rng():  # dropout takes no generator
            torch.manual_seed(seed)
            for number, rows in enumerate(batches):
                self._set_rates(self.epoch * len(batches) + number, config.epochs * len(batches))
                mixed, targets = mix(
                    [clips[row] for row in rows], one_hot(classes[rows], len(self.names)), config.mixup, generator
                )
                vectors = self.model.standardized(self.model.vectors(mixed))
                logits = self.model.head(vectors) if heads is None else heads(vectors, rows)
                loss = F.cross_entropy(logits, targets.to(device))
                self._refuse_unless(bool(loss.isfinite()), "the loss is")
                self.optimizer.zero_grad()
                torch.autograd.backward(loss + (0 if heads else penalty * self.model.head.weight.square().sum()))
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

    def accuracy(self, split: str) -> float:
        """Return the accuracy of the present weights on a split, in per cent."""
        return self._accuracy_of(self._logits(split), split)

    def _accuracy_of(self, logits: Tensor, split: str) -> float:
        return 100 * float((logits.argmax(dim=1) == self.clips[split][1]).double().mean())

    def _logits(self, split: str) -> Tensor:
        """Classify the clips of a split: (clips, classes) on the CPU."""
        return self._classified(self._vectors(split))

    @torch.no_grad()
    def _classified(self, vectors: Tensor) -> Tensor:
        return self.model.classify(vectors.to(self.model.mean.device)).cpu()

    @torch.no_grad()
    def _vectors(self, split: str) -> Tensor:
        """Embed the clips of a split: (clips, E) on the CPU."""
        self.model.eval()
        clips, _ = self.clips[split]
        starts = range(0, len(clips), EVALUATION_CLIPS)
        return torch.cat([self.model.vectors(clips[first : first + EVALUATION_CLIPS]).cpu() for first in starts])

    def _save(self) -> None:
        state: dict[str, Any] = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        state.update({name: getattr(self, name) for name in STATE_KEYS - state.keys()})
        write_whole(self.folder / STATE_NAME, state)

    def _export(self, score: TunedScore) -> None:
        encoder, readout = self.model.encoder, self.model.readout
        self._save_encoder(score)
        head = self.model.linear
        with disk_errors(self.folder / HEAD_NAME), replacing(self.folder / HEAD_NAME) as part:
            save_file(
                {name: torch.from_numpy(value) for name, value in head.folded.items()},
                part,
                metadata={"classes": json.dumps(self.names)},
            )
        calibrated(
            head,
            self.names,
            valid=(self._logits("valid").double().numpy(), self.clips["valid"][1].numpy()),
            source=CheckpointSource(str(self.folder / ENCODER_NAME), fingerprint(encoder, readout)),
            readout=readout,
            about={"clips": self.settings["clips"], "finetuned": dataclasses.asdict(score)},
        ).save(self.folder)

    def _save_encoder(self, score: TunedScore) -> None:
        """Write the encoder, with a card that says what it was tuned on unless no epoch was better than none."""
        encoder, config, card = self.model.encoder, self.model.encoder.config, None
        if score.epoch > 0:
            before, count = config.provenance, len(self.clips["train"][1])
            data = f"fine-tuned on {count} labelled clips of {self.labelled_set.name}"
            origin = self.config.checkpoint or BUNDLED_NAME
            provenance = dataclasses.replace(
                before,
                data=f"{data}; before that, {before.data}" if before.data else data,
                parents=[*before.parents, origin],
                package=__version__,
            )
            config = dataclasses.replace(config, provenance=provenance)
            card = checkpoint.Card(results={f"{self.labelled_set.name}, test": round(score.test, 1)})
        projection = encoder.projection if self.model.readout.projected else None
        text = checkpoint.card_of(encoder.network, config, self.labelled_set.name, card, projection)
        checkpoint.save_folder(self.folder / ENCODER_NAME, encoder.network, config, card=text, projection=projection)


def finetune(
    sets: Sequence[LabelledSet], config: FinetuneConfig, out: Path, device: str | None = None
) -> dict[str, TunedScore]:
    """Fine-tune a copy of the encoder on each set, in a folder of its name; finished epochs are not repeated."""
    return {each.name: FineTuning(each, config, out / each.name, device).run() for each in sets}

"""What a run looks at beside its own loss: validation, a probe, pictures."""

import logging
from pathlib import Path

import torch

from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoder
from pretrain.data.batches import Batch, CropBatches, batches
from pretrain.data.failures import DecodeFailures
from pretrain.training import pictures
from pretrain.training.flops import StepFlops, peak_flops
from pretrain.training.logging import Report, rounded
from pretrain.training.step import DTYPES, Updater, prepare

logger = logging.getLogger(__name__)


class Watch:
    """Measures and draws; the weights stay as they are."""

    def __init__(self, updater: Updater, report: Report | None, validation: CropBatches | None) -> None:
        self.updater, self.report, self.validation = updater, report, validation
        recipe = updater.recipe
        self.peak = peak_flops(updater.device, DTYPES[recipe.precision]) * updater.parallel.processes
        self.flops = StepFlops(recipe)
        if recipe.probe is not None:
            from maeast_upstream.evaluation.labelled_set import read_labels

            self.labels = read_labels(Path(recipe.probe))

    @torch.no_grad()
    def validate(self, step: int) -> float:
        """The mean loss over the same crops and masks each time, logged as valid_...; the sum of its parts."""
        assert self.validation is not None
        recipe, objective, parallel = (
            self.updater.recipe,
            self.updater.objective,
            self.updater.parallel,
        )
        bad = DecodeFailures(recipe.data.max_bad_share)
        objective.eval()
        sums: dict[str, torch.Tensor] = {}
        for number, item in enumerate(batches(self.validation, 0, recipe.validate_batches, 0)):
            batch = Batch(*item)
            bad.add(batch)
            patches, masks = prepare(objective, batch, (self.validation.seed, number), self.updater.device)
            with self.updater.arithmetic():
                losses = objective(patches, *masks)
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value.clone()
        objective.train()
        count = recipe.validate_batches * parallel.processes
        values = rounded({f"valid_{name}": parallel.add(value) / count for name, value in sums.items()})
        if self.report is not None:
            self.report.line(step, values)
        return values["valid_loss"]

    def probe(self, config: EncoderConfig, step: int) -> None:
        """How well a linear classifier reads the labels from the frozen encoder as it is now."""
        if self.report is None:
            return
        from maeast_upstream.evaluation.linear_probe import valid_accuracies

        encoder = Encoder(config).eval()
        state = {
            name: value.detach().cpu().float() for name, value in self.updater.objective.network.state_dict().items()
        }
        encoder.network.load_state_dict(state)
        encoder.to(self.updater.device)
        # of a run that goes on test is not read
        (valid,) = valid_accuracies(self.labels, encoder, [config.readout]).values()
        self.report.line(step, {"probe_valid": round(valid, 2)})

    def pictures(self, batch: Batch, step: int) -> None:
        """A reconstruction of the batch's first crop, and how often each token is removed."""
        if self.report is None or self.report.board is None or self.updater.parallel.sharding == "fsdp":
            return
        objective = self.updater.objective
        objective.eval()
        patches = objective.patches(batch.waveforms[:1].to(self.updater.device))
        generator = torch.Generator(patches.device).manual_seed(step)
        masks = objective.draw_masks(patches, generator)
        self.report.picture("reconstruction", pictures.reconstruction(objective, patches, masks), step)
        frequency = pictures.removal_frequency(objective, patches.shape[1], generator)
        self.report.picture("removal frequency", pictures.frequency_picture(frequency), step)
        objective.train()

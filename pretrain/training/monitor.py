"""What a run measures besides its training loss: validation, a linear probe, pictures."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoder
from pretrain.data.batches import Batch, CropBatches, batches
from pretrain.data.failures import DecodeFailures
from pretrain.objective import Objective
from pretrain.training.logging import Report, rounded
from pretrain.training.pictures import frequency_picture, reconstruction_picture
from pretrain.training.step import Updater


class Monitor:
    """Measures and draws without changing the weights."""

    def __init__(self, updater: Updater, report: Report | None, probe: str | None) -> None:
        """Read the labels of the probe.

        Args:
            updater: holds the network.
            report: gets the results; None in all processes but the first.
            probe: path of a labels.csv, or None.
        """
        self.updater, self.report = updater, report
        if probe is not None:
            from maeast_upstream.evaluation.labelled_set import read_labels

            self.labels = read_labels(Path(probe))

    @torch.no_grad()
    def validate(self, source: CropBatches, num_batches: int, max_bad_share: float, step: int) -> float:
        """The mean loss over the same crops and masks each time; all its parts are logged as valid_..."""
        parallel, failures = self.updater.parallel, DecodeFailures(max_bad_share)
        sums: dict[str, Tensor] = {}
        with evaluating(self.updater.objective) as objective:
            for number, item in enumerate(batches(source, 0, num_batches, 0)):
                batch = Batch(*item)
                failures.add(batch)
                patches, masks = self.updater.prepare(batch, (source.seed, number))
                with self.updater.arithmetic():
                    losses = objective(patches, *masks)
                for name, value in losses.items():
                    sums[name] = sums[name] + value if name in sums else value.clone()
        count = num_batches * parallel.processes
        values = rounded({f"valid_{name}": parallel.add(value) / count for name, value in sums.items()})
        if self.report is not None:
            self.report.line(step, values)
        return values["valid_loss"]

    def probe(self, config: EncoderConfig, step: int) -> None:
        """Log the valid accuracy of a linear classifier on the frozen encoder; the test split stays unused."""
        if self.report is None:
            return
        from maeast_upstream.evaluation.linear_probe import valid_accuracies

        encoder = Encoder(config).eval()
        state = self.updater.objective.network.state_dict()
        encoder.network.load_state_dict({name: value.detach().cpu().float() for name, value in state.items()})
        encoder.to(self.updater.device)
        (valid,) = valid_accuracies(self.labels, encoder, [config.readout]).values()
        self.report.line(step, {"probe_valid": round(valid, 2)})

    def pictures(self, batch: Batch, step: int) -> None:
        """Log a reconstruction of the batch's first crop, and how often each token is masked."""
        if self.report is None or not self.report.trackers.show_pictures or self.updater.parallel.sharding == "fsdp":
            return
        sampler, report = self.updater.prepare.sampler, self.report
        with evaluating(self.updater.objective) as objective:
            patches = objective.patches(batch.waveforms[:1].to(self.updater.device))
            generator = torch.Generator(patches.device).manual_seed(step)
            visible, masked, _ = sampler.draw(1, patches.shape[1], generator)
            report.picture("reconstruction", reconstruction_picture(objective.network, patches, visible, masked), step)
            report.picture("removal frequency", frequency_picture(sampler, patches.shape[1], generator), step)


@contextlib.contextmanager
def evaluating(objective: Objective) -> Iterator[Objective]:
    """A context with the objective in eval mode and not compiled: for another mode it would be compiled anew."""
    objective.eval()
    with torch.compiler.set_stance("force_eager"):
        yield objective
    objective.train()

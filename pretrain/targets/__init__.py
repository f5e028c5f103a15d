"""What the rows of a batch should predict besides their own patches: looked up by clip, or computed by a teacher."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pretrain.data.batches import Batch, CropBatches
from pretrain.data.clips import packed_names
from pretrain.data.shards import ShardBatches
from pretrain.objective import TargetSizes
from pretrain.recipe import Recipe
from pretrain.targets.clusters import RECORD_NAME, ClusterTargets, open_clusters
from pretrain.targets.labels import LabelTarget, open_labels, refuse_other_classes, write_record
from pretrain.targets.rows import ClipRows
from pretrain.targets.vectors import (
    CheckpointTeacher,
    TableTeacher,
    open_teachers,
    refuse_other_teachers,
    write_digests,
)

logger = logging.getLogger(__name__)


class Target(Protocol):
    """The targets of one loss."""

    def __call__(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """(B, ...) targets of a batch's rows on the device, by the names that `Objective.forward` knows."""


class Targets:
    """The targets of all losses of a run."""

    def __init__(self, targets: Sequence[Target] = (), sizes: TargetSizes | None = None) -> None:
        """Remember the targets of each loss, and how many values their heads predict."""
        self.targets, self.sizes = targets, sizes or TargetSizes()

    def __call__(self, batch: Batch, device: torch.device, passes: int = 1) -> dict[str, Tensor] | None:
        """The targets of a batch's rows; None if no loss has any.

        Args:
            batch: the batch.
            device: where the targets go.
            passes: how often the rows are repeated, pass by pass.
        """
        if not self.targets:
            return None
        found = [target(batch, device) for target in self.targets]
        return {name: torch.cat([rows] * passes) for values in found for name, rows in values.items()}

    def write_record(self, run: Path) -> None:
        """Write what the heads of a run predict to its folder, unless it is there."""
        write_digests(run, [target for target in self.targets if isinstance(target, TableTeacher | CheckpointTeacher)])
        for target in self.targets:
            if isinstance(target, LabelTarget):
                write_record(run, target)
            elif isinstance(target, ClusterTargets):
                target.record.write(run / RECORD_NAME)


def open_targets(recipe: Recipe, source: CropBatches | ShardBatches) -> Targets:
    """Open what a recipe's losses predict, for the clips of its training corpus.

    Raises:
        ValueError: a table of targets is missing, broken, or has none of the clips; in one line.
    """
    losses = recipe.losses
    for loss, weight, given in (
        ("supervised", losses.supervised, recipe.labels),
        ("teacher", losses.teacher, recipe.teacher),
    ):
        if given is not None and not weight:
            logger.warning("losses.%s is 0: nothing is learned from %s", loss, given)
    if not (losses.supervised or losses.teacher or losses.cluster):
        return Targets()
    clips = packed_names(source.clips) if isinstance(source, CropBatches) else None
    rows = None
    if isinstance(source, CropBatches):
        rows = ClipRows(source.clips.lengths, recipe.data.short_clips == "join")
    labels, teachers = [], []
    if losses.supervised and recipe.labels is not None:
        if clips is None or rows is None:
            raise ValueError(f"labels {recipe.labels} need a packed corpus: give data.pack true, and not synth: alone")
        labels.append(open_labels(recipe.labels, list(losses.label_weights), clips, rows))
        refuse_other_classes(Path(recipe.out), labels[0])
    if losses.teacher and recipe.teacher is not None:
        teachers = open_teachers(recipe.teacher, clips, rows, recipe.precision, losses.teacher_standardize)
        refuse_other_teachers(Path(recipe.out), recipe.teacher, teachers)
    clusters = []
    if losses.cluster and recipe.clusters is not None:
        clusters.append(open_clusters(recipe, recipe.clusters, source))
    sizes = TargetSizes(
        teachers=tuple(teacher.width for teacher in teachers),
        labels=tuple(len(column.classes) for target in labels for column in target.columns),
        clusters=sum(target.clusters for target in clusters),
    )
    return Targets([*labels, *teachers, *clusters], sizes)

"""Clusters of an earlier model's tokens as targets of masked tokens, as ``python -m pretrain.targets`` writes them.

Source: HuBERT, arXiv 2106.07447. Each token has a cluster of its own, also each of the mel patches of a time step: what
is predicted is what was masked, as with the patches' labels of BEATs (arXiv 2212.09058).
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.checks import check_numbers
from maeast_upstream.device import to_device
from maeast_upstream.frontend import HOP_SAMPLES, WINDOW_SAMPLES, num_samples
from maeast_upstream.model import ModelConfig
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.time_grid import TimeGrid
from pretrain.data.batches import Batch, CropBatches
from pretrain.data.clips import ChosenClips, Clips, PackedClips
from pretrain.data.shards import ShardBatches
from pretrain.recipe import Recipe

RECORD_NAME, LABELS_NAME, CENTRES_NAME = "clusters.json", "clusters.u16", "centres.npy"
MAX_CLUSTERS = 1 << 16
"""What 16 bits can number."""
MISSING = -1
"""The cluster of a token that has none."""


@dataclass(frozen=True, kw_only=True)
class ClusterRecord:
    """What clusters.json holds."""

    corpus: str
    """Digest of the packed corpus, see `pretrain.data.packed_record.verify`."""
    clips: int
    """Its clips."""
    checkpoint: str
    """The model whose tokens were clustered, as it was named."""
    fingerprint: str
    """Of that model."""
    layer: int
    """Its layer, counted from 1."""
    clusters: int
    """Number of clusters."""
    seed: int
    """Of the sample, and of k-means."""
    sampled: int
    """Tokens that the clusters were found in."""
    mel_patches: int
    """Tokens of a time step."""
    patch_frames: int
    """Fbank frames of a token."""
    hop: int
    """Fbank frames between two time steps."""
    left: int
    """Zero samples in front of a clip, see `TimeGrid`."""

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("mel_patches", "patch_frames", "hop"), (1, MAX_CLUSTERS))
        check_numbers(self, clusters=(1, MAX_CLUSTERS), left=(0, MAX_CLUSTERS), **sizes)

    @property
    def grid(self) -> TimeGrid:
        """Where the time steps lie in a clip."""
        return TimeGrid(self.patch_frames, self.hop, self.left)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        with replacing(path) as part:
            part.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")


def read_clusters(folder: Path) -> ClusterRecord:
    """Read what a folder of targets, or a run that learns them, says of them; ValueError if it says nothing."""
    path = folder / RECORD_NAME
    if not path.is_file():
        raise ValueError(f"clusters {folder}: no {RECORD_NAME} in it; expected a folder that pretrain.targets wrote")
    try:
        return ClusterRecord(**read_json(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not what pretrain.targets writes ({error}); make the targets again") from error


def steps_of(grid: TimeGrid, lengths: np.ndarray) -> np.ndarray:
    """(clips,) int64 time steps of clips with ``lengths`` samples; none for an empty clip."""
    different, places = np.unique(lengths, return_inverse=True)
    steps: np.ndarray = np.array([grid.steps(int(count)) if count else 0 for count in different], np.int64)[places]
    return steps


def packed_of(clips: Clips) -> tuple[PackedClips, np.ndarray]:
    """The packed corpus that clips are read from, and their (clips,) numbers in it; ValueError if it is not packed."""
    chosen = clips.chosen if isinstance(clips, ChosenClips) else np.arange(len(clips.lengths))
    packed = clips.clips if isinstance(clips, ChosenClips) else clips
    if not isinstance(packed, PackedClips):
        raise ValueError("clusters belong to the clips of a packed corpus: give data.pack true, and not synth: alone")
    return packed, chosen


class ClusterTargets:
    """Looks up the clusters of the tokens of a batch's rows."""

    def __init__(self, folder: Path, clips: Clips, model: ModelConfig, repeated: bool) -> None:
        """Map the targets into memory.

        Args:
            folder: what ``python -m pretrain.targets`` wrote.
            clips: the clips to train on.
            model: the network that trains, whose tokens need not be those of the clustered one.
            repeated: whether a crop repeats a clip that is shorter.

        Raises:
            ValueError: the targets are of another corpus, or broken; in one line.
        """
        self.record = read_clusters(folder)
        self.model, self.repeated = model, repeated
        packed, self.numbers = packed_of(clips)
        self.lengths = packed.lengths
        if self.record.clips != len(packed.lengths) or packed.digest not in ("", self.record.corpus):
            raise ValueError(
                f"clusters {folder}: made for another corpus ({self.record.clips} clips, {self.record.corpus}) than "
                f"this one ({len(packed.lengths)} clips, {packed.digest}): make them with python -m pretrain.targets"
            )
        self.steps = steps_of(self.record.grid, packed.lengths)
        self.offsets = self.steps.cumsum() - self.steps
        path, rows = folder / LABELS_NAME, int(self.steps.sum())
        size, expected = path.stat().st_size if path.is_file() else 0, 2 * rows * self.record.mel_patches
        if size != expected:
            raise ValueError(f"{path}: {size} bytes, expected {expected}; make the targets again")
        self.labels = np.memmap(path, np.uint16, "r", shape=(rows, self.record.mel_patches))
        if (largest := int(self.labels.max())) >= self.record.clusters:
            raise ValueError(f"{path}: cluster {largest} of {self.record.clusters}; make the targets again")

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return self.record.clusters

    def __call__(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """``clusters``: (B, N) int64, for each token the cluster of the target whose centre is nearest.

        Tokens have the cluster -1 where they are centred beyond the end of their clip, and all tokens of a row without
        a clip.
        """
        views = len(batch.starts) // max(1, len(batch.clips))
        numbers = np.tile(np.array(batch.clips, np.int64), views)
        found = self.look_up(numbers, batch.starts.numpy(), batch.waveforms.shape[1])
        return {"clusters": to_device(torch.from_numpy(found), device)}

    def look_up(self, numbers: np.ndarray, starts: np.ndarray, samples: int) -> np.ndarray:
        """(B, N) int64 clusters of crops.

        Args:
            numbers: (B,) numbers of their clips, -1 for none.
            starts: (B,) sample of the clip at which each crop begins.
            samples: length of a crop.
        """
        model, record = self.model, self.record
        clips = self.numbers[numbers.clip(min=0)][:, None]
        frames = (samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        tokens = np.arange(frames // model.patch_frames) * model.patch_frames * HOP_SAMPLES
        centres = starts[:, None] + tokens + num_samples(model.patch_frames) / 2
        lengths = self.lengths[clips]
        if self.repeated:
            centres = centres % lengths.clip(min=1)
        missing = (numbers[:, None] < 0) | (centres >= lengths)
        grid = record.grid
        first = num_samples(grid.patch_frames) / 2 - grid.left
        nearest = np.floor((centres - first) / grid.hop_samples + 0.5).astype(np.int64)
        rows = self.offsets[clips] + nearest.clip(0, (self.steps[clips] - 1).clip(min=0))
        mel = (np.arange(model.mel_patches) + 0.5) * record.mel_patches / model.mel_patches
        labels = self.labels[rows.clip(max=len(self.labels) - 1)][..., mel.astype(np.int64)].astype(np.int64)
        labels[missing] = MISSING
        found: np.ndarray = labels.reshape(len(numbers), -1)
        return found


def open_clusters(recipe: Recipe, folder: str, source: CropBatches | ShardBatches) -> ClusterTargets:
    """Open the clusters in ``folder`` for a recipe's training corpus; ValueError as of `ClusterTargets`."""
    if not isinstance(source, CropBatches):
        raise ValueError(f"clusters {folder}: streamed shards have no numbered clips: give data.pack true")
    targets = ClusterTargets(Path(folder), source.clips, recipe.model, recipe.data.short_clips == "repeat")
    run = Path(recipe.out)
    if (run / RECORD_NAME).exists():
        begun_with = dataclasses.replace(read_clusters(run), checkpoint=targets.record.checkpoint)
        if begun_with != targets.record:
            raise ValueError(
                f"{run} was begun with other clusters than those in {folder}: give these, or another --out"
            )
    return targets

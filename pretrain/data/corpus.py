"""The audio of a recipe: which kind of source it is, opened."""

import logging
from pathlib import Path

from maeast_upstream.data.packed import is_packed
from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES
from pretrain.config import DataConfig, Recipe
from pretrain.data.batches import BatchSharding, CropBatches
from pretrain.data.clips import Clips, drop_short, open_folder, open_manifest, open_packed_clips, packed_corpus
from pretrain.data.packing import pack
from pretrain.data.shards import ShardBatches, find_shards

logger = logging.getLogger(__name__)

VALIDATION_SEED = 1 << 30
"""So that validation draws other crops than training, the same each time."""


def open_training(recipe: Recipe, parts: BatchSharding, start: int) -> CropBatches | ShardBatches:
    """What a run trains on, from batch ``start`` on.

    Raises:
        ValueError: no audio there, or settings that it does not go with, in one line.
    """
    data = recipe.data
    if data.batch_clips % parts.number or data.batch_clips < 2 * parts.number:
        raise ValueError(
            f"data.batch_clips {data.batch_clips} is not to be shared by {parts.processes} processes x "
            f"optim.accumulate {parts.accumulate}: give a multiple of {parts.number}, two clips a part at least"
        )
    clips = open_clips(data.corpus, recipe)
    if data.resident and (clips is None or packed_corpus(clips) is None):
        raise ValueError("data.resident wants a decoded corpus: give data.pack true, or data.resident false")
    if clips is not None:
        return CropBatches(clips, data, recipe.losses.crops, recipe.seed, parts)
    refuse_for_shards(data)
    if start:
        logger.warning(
            "shards have no position to go back to: a fresh shuffle from batch %d on",
            start + 1,
        )
    shards = find_shards(data.corpus)
    return ShardBatches(shards, data, recipe.losses.crops, (recipe.seed, start), parts)


def open_validation(recipe: Recipe, parts: BatchSharding) -> CropBatches | None:
    """What a run is validated on; None without data.validation."""
    if recipe.data.validation is None:
        return None
    clips = open_clips(recipe.data.validation, recipe, validation=True)
    if clips is None:
        raise ValueError(
            f"data.validation {recipe.data.validation}: streamed shards would be other clips each time; pack them"
        )
    seed = recipe.seed + VALIDATION_SEED
    return CropBatches(
        clips,
        recipe.data,
        recipe.losses.crops,
        seed,
        BatchSharding(parts.processes, parts.rank),
    )


def open_clips(corpus: str, recipe: Recipe, validation: bool = False) -> Clips | None:
    """A corpus whose clips have numbers; None for shards that are to be streamed."""
    clips = _open(corpus, recipe.data, recipe.data.pack and not validation)
    return None if clips is None else drop_short(clips, min_samples(recipe))


def _open(corpus: str, data: DataConfig, packs: bool) -> Clips | None:
    path = Path(corpus)
    if is_packed(corpus):
        return open_packed_clips(path)
    if packs and (path.exists() or not find_shards(corpus)):
        folder = (
            Path(data.packed) if data.packed else (path / "packed" if path.is_dir() else path.with_suffix(".packed"))
        )
        pack(path, folder, data.workers)
        return open_packed_clips(folder)
    if packs:
        raise ValueError(
            f"data.corpus {corpus} and data.pack true do not go together: give data.pack false to stream these shards, "
            "or pack them on their machine (python -m pretrain.pack)"
        )
    if path.suffix == ".tsv":
        return open_manifest(path)
    if find_shards(corpus):
        return None
    if not path.is_dir():
        raise ValueError(f"corpus {corpus}: no such folder; give a folder of audio files or *.tar shards, or a .tsv")
    return open_folder(path)


def refuse_for_shards(data: DataConfig) -> None:
    """ValueError for what needs numbered clips, naming both settings."""
    for name, unset in (("kind_power", 1.0), ("min_seconds", 0.0)):
        if getattr(data, name) != unset:
            raise ValueError(
                f"data.{name} {getattr(data, name)} and streamed shards (data.pack false) do not go together: give "
                f"data.pack true, or data.{name} {unset}"
            )
    if data.short == "pad":
        raise ValueError(
            "data.short pad and streamed shards (data.pack false) do not go together: give data.pack true, or "
            "data.short repeat"
        )


def min_samples(recipe: Recipe) -> int:
    """Length of the shortest clip that is of use."""
    least = round(recipe.data.min_seconds * SAMPLE_RATE)
    if recipe.data.short == "pad":  # it must hold a token to see and one to predict
        steps = -(-2 // recipe.model.mel_patches)
        least = max(
            least,
            WINDOW_SAMPLES + (steps * recipe.model.patch_frames - 1) * HOP_SAMPLES,
        )
    return max(least, 1)


def describe(source: CropBatches | ShardBatches, corpus: str) -> str:
    """For a checkpoint's provenance."""
    if isinstance(source, ShardBatches):
        return f"{len(source.shards)} shards of {Path(corpus).name}"
    lengths = source.clips.lengths
    return f"{lengths.sum() / SAMPLE_RATE / 3600:.1f} h, {len(lengths)} clips of {Path(corpus).name}"

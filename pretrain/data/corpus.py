"""Opens the audio that a recipe names, whatever kind of source it is."""

import dataclasses
import hashlib
import logging
from pathlib import Path

from maeast_upstream.data.packed import is_packed
from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES
from maeast_upstream.model import ModelConfig
from pretrain.data.batches import BatchSharding, CropBatches
from pretrain.data.clips import (
    ChosenClips,
    Clips,
    NoClips,
    PackedClips,
    drop_short,
    open_folder,
    open_manifest,
    open_packed_clips,
    packed_corpus,
)
from pretrain.data.failures import refuse_bad_share
from pretrain.data.listing import DIGEST_LETTERS, list_corpus, no_corpus
from pretrain.data.packed_record import default_folder, warn_if_changed
from pretrain.data.packing import pack
from pretrain.data.shards import ShardBatches, find_shards
from pretrain.data_config import MIN_SORTED_CLIPS, SYNTH_CORPUS, DataConfig
from pretrain.synth.sounds import VERSION

logger = logging.getLogger(__name__)

VALIDATION_SEED = 1 << 30
"""Added to a run's seed, so that validation draws other crops than training, the same ones each time."""


def open_training(
    data: DataConfig,
    model: ModelConfig,
    views: int,
    seed: int,
    sharding: BatchSharding,
    start: int = 0,
    beside: Path = Path("runs"),
) -> CropBatches | ShardBatches:
    """Open the training corpus.

    Args:
        data: the corpus and how crops are cut from it.
        model: the network; padded clips must have at least two of its tokens.
        views: crops of each clip.
        seed: decides the crops.
        sharding: how batches are shared.
        start: the first batch that will be read.
        beside: a folder in which packed/ holds packed copies that have no folder of their own.

    Raises:
        ValueError: there is no audio, or a setting does not fit it; in one line.
    """
    refuse_unequal(data, sharding)
    clips = open_clips(data.corpus, data, model, beside, check=sharding.rank == 0)
    if data.on_gpu and (clips is None or packed_corpus(clips) is None):
        raise ValueError("data.on_gpu needs a decoded corpus: give data.pack true, or data.on_gpu false")
    if clips is not None:
        return CropBatches(clips, data, views, seed, sharding)
    refuse_for_shards(data)
    if not start and sharding.rank == 0 and Path(data.corpus).is_dir():
        _warn_of_files(Path(data.corpus))
    if start:
        logger.warning("streamed shards cannot resume at a position: a new shuffle from batch %d on", start + 1)
    return ShardBatches(find_shards(data.corpus), data, views, (seed, start), sharding)


def refuse_unequal(data: DataConfig, sharding: BatchSharding) -> None:
    """ValueError if a batch cannot be cut into equal micro-batches of at least two clips."""
    by_samples = data.batch_by == "samples"
    clips = MIN_SORTED_CLIPS if by_samples else data.batch_clips
    if clips % sharding.number == 0 and clips >= 2 * sharding.number:
        return
    shared = f"{sharding.processes} processes x optim.accumulation_steps {sharding.accumulation_steps}"
    if by_samples:
        raise ValueError(
            f"data.batch_by samples makes batches of a multiple of {clips} clips, which {shared} cannot share: make "
            f"that 1, 2 or {clips // 2} together"
        )
    raise ValueError(
        f"data.batch_clips {clips} cannot be shared by {shared}: give a multiple of {sharding.number} with at least "
        "two clips for each"
    )


def _warn_of_files(folder: Path) -> None:
    """Warn of audio files beside shards that are streamed."""
    if files := list_corpus(folder).files:
        logger.warning(
            "%d audio files beside the shards are left out, the first: %s; with data.pack true they are packed, too",
            len(files),
            files[0][0],
        )


def open_validation(
    data: DataConfig, model: ModelConfig, views: int, seed: int, sharding: BatchSharding
) -> CropBatches | None:
    """Open the validation corpus; None without data.validation. Arguments as of `open_training`."""
    if data.validation is None:
        return None
    data = dataclasses.replace(
        data, corpus=data.validation, validation=None, pack=False, packed=None, synth_share=0.0, on_gpu=False
    )
    clips = open_clips(data.corpus, data, model, check=not sharding.rank)
    if clips is None:
        raise ValueError(f"data.validation {data.corpus}: streamed shards would give other clips each time; pack them")
    return CropBatches(clips, data, views, seed + VALIDATION_SEED, BatchSharding(sharding.processes, sharding.rank))


def open_clips(
    corpus: str, data: DataConfig, model: ModelConfig, beside: Path = Path("runs"), check: bool = True
) -> Clips | None:
    """Open a corpus whose clips have numbers; None if it is shards that are to be streamed."""
    if data.computed_only:
        return NoClips()
    clips = _open(corpus, data, beside, check)
    if clips is None:
        return None
    refuse_bad_share(clips, data.max_bad_share, corpus)
    return drop_short(clips, min_samples(data, model))


def _open(corpus: str, data: DataConfig, beside: Path, check: bool) -> Clips | None:
    path = Path(corpus)
    if not corpus:
        raise ValueError("data.corpus and data.validation must not be empty: give a folder of audio files")
    if is_packed(corpus):
        if check:
            warn_if_changed(path)
        return open_packed_clips(path, check)
    shards = find_shards(corpus)
    if data.pack and not path.exists() and shards:
        raise ValueError(
            f"data.corpus {corpus} and data.pack true do not go together: give data.pack false to stream these shards, "
            "or pack them on their machine (python -m pretrain.pack)"
        )
    if data.pack:
        return open_packed_clips(packed_copy(path, data, beside), check)
    if path.suffix == ".tsv":
        return open_manifest(path)
    if shards:
        return None
    if not path.is_dir():
        raise ValueError(no_corpus(path))
    return open_folder(path)


def packed_copy(corpus: Path, data: DataConfig, beside: Path) -> Path:
    """The folder of the packed copy of a corpus, which is made if there is none."""
    if data.packed is not None:
        pack(corpus, Path(data.packed), data.workers)
        return Path(data.packed)
    listing = list_corpus(corpus)
    folder = default_folder(listing, beside)
    pack(corpus, folder, data.workers, listing=listing)
    return folder


def corpus_digest(source: CropBatches | ShardBatches, corpus: str) -> str:
    """A digest that tells the audio of a corpus from that of another; for the process that checked the corpus.

    It is that of the samples if they are packed, and otherwise that of the names, sizes and times of the files, or of
    the addresses of remote shards.
    """
    if corpus == SYNTH_CORPUS:
        return hashlib.sha256(f"{corpus} {VERSION}".encode()).hexdigest()[:DIGEST_LETTERS]
    if isinstance(source, CropBatches):
        clips = source.clips.clips if isinstance(source.clips, ChosenClips) else source.clips
        if isinstance(clips, PackedClips):
            return clips.digest
    if Path(corpus).exists():
        return list_corpus(Path(corpus)).digest
    assert isinstance(source, ShardBatches)
    return hashlib.sha256("\n".join(source.shards).encode()).hexdigest()[:DIGEST_LETTERS]


def refuse_for_shards(data: DataConfig) -> None:
    """ValueError if a setting needs numbered clips; names it and data.pack."""
    needing = {"kind_power": 1.0, "min_seconds": 0.0, "batch_by": "clips", "synth_share": 0.0, "join_with": "any"}
    for name, unset in needing.items():
        if getattr(data, name) != unset:
            raise ValueError(
                f"data.{name} {getattr(data, name)} and streamed shards (data.pack false) do not go together: give "
                f"data.pack true, or data.{name} {unset}"
            )
    if data.padded:
        raise ValueError(
            "data.short_clips pad and streamed shards (data.pack false) do not go together: give data.pack true, or "
            "data.short_clips repeat"
        )


def min_samples(data: DataConfig, model: ModelConfig) -> int:
    """Length of the shortest clip that can be used."""
    least = round(data.min_seconds * SAMPLE_RATE)
    if data.padded or data.batch_by == "samples":  # a clip must hold a token to see and one to predict
        steps = -(-2 // model.mel_patches)
        least = max(least, WINDOW_SAMPLES + (steps * model.patch_frames - 1) * HOP_SAMPLES)
    return max(least, 1)


def describe(source: CropBatches | ShardBatches, corpus: str) -> str:
    """A few words on the corpus for a checkpoint's provenance."""
    if isinstance(source, ShardBatches):
        return f"{len(source.shards)} shards of {Path(corpus).name}"
    if corpus == SYNTH_CORPUS:
        return "computed sounds"
    lengths, share = source.clips.lengths, source.config.synth_share
    words = f"{lengths.sum() / SAMPLE_RATE / 3600:.1f} h, {len(lengths)} clips of {Path(corpus).name}"
    return f"{words}, and computed sounds ({share:.0%} of each batch)" if share else words

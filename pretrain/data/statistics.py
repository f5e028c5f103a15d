"""Mean and standard deviation of a corpus's log-mel spectrogram, measured once."""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from maeast_upstream.config import Normalisation, read_section
from maeast_upstream.frontend import Fbank, FrontendConfig, num_frames
from maeast_upstream.storage.atomic import replacing
from pretrain.config import DataConfig
from pretrain.data.batches import CropBatches, batches
from pretrain.data.failures import DecodeFailures
from pretrain.data.listing import DIGEST_LETTERS
from pretrain.data.shards import ShardBatches

MEASURED_SECONDS = 3072.0
"""Seconds of crops over which statistics are measured."""
MIN_BATCHES, MAX_BATCHES = 4, 16
"""Fewest and most batches for that; 16 batches of 96 crops of 2 s are within 0.01 of the mean of all."""

UNRELATED_SETTINGS = frozenset(
    {
        *("corpus", "pack", "packed", "validation", "workers", "on_gpu", "shuffle_clips", "max_bad_share"),
        *("batch_clips", "length_buckets", "batch_samples", "max_counted_samples"),
    }
)
"""Settings of the data that do not change what a crop sounds like."""
NEWER_SETTINGS = {"batch_by": "clips", "synth_share": 0.0, "join_with": "any"}
"""Settings with defaults that a digest leaves out, because statistics of versions without them stay valid."""


def measure(
    source: CropBatches | ShardBatches, data: DataConfig, frontend: FrontendConfig, num_batches: int | None = None
) -> Normalisation:
    """Measure over all bins and frames of batches as training draws them, gains and mixing included.

    Raises:
        ValueError: the standard deviation is 0, or too many clips cannot be decoded.
    """
    if num_batches is None:
        clips, seconds = data.usual_batch
        num_batches = min(MAX_BATCHES, max(MIN_BATCHES, round(MEASURED_SECONDS / (clips * seconds))))
    if isinstance(source, CropBatches):  # whole batches, so that the mean does not depend on how they are shared
        source = CropBatches(source.clips, source.config, source.views, source.seed)
    fbank = Fbank(frontend)
    total = torch.zeros(2, dtype=torch.float64)
    count = 0
    failures = DecodeFailures(data.max_bad_share)
    loader = batches(source, 0, num_batches, 0 if isinstance(source, CropBatches) else data.workers)
    for batch in islice(loader, num_batches * source.sharding.accumulation_steps):
        failures.add(batch)
        with torch.no_grad():
            values = fbank(batch.waveforms, batch.lengths).double()
        total += torch.stack([values.sum(), values.square().sum()])
        count += int(num_frames(batch.lengths).sum()) * values.shape[2]
    mean, square = (total / count).tolist()
    std = round(max(0.0, square - mean**2) ** 0.5, 4)
    if not std:
        raise ValueError(f"corpus {data.corpus}: its spectrogram is the same everywhere; is it all silence?")
    return Normalisation(mean=round(mean, 4), std=std)


@dataclass(frozen=True)
class Stored:
    """What a stats.json holds."""

    normalisation: Normalisation
    measured_on: str | None = None
    """`measurement_digest` of what they were measured on; None in those that version 0.1 or a user wrote."""
    corpus: str = ""
    """The corpus in words, for messages."""


def measurement_digest(corpus_digest: str, data: DataConfig, frontend: FrontendConfig) -> str:
    """A digest of everything that statistics depend on, except the seed.

    Args:
        corpus_digest: `pretrain.data.corpus.corpus_digest` of the corpus.
        data: how crops are cut from it, filled, mixed and amplified.
        frontend: how the spectrogram is made.
    """
    settings = {name: value for name, value in asdict(data).items() if name not in UNRELATED_SETTINGS}
    for name, default in NEWER_SETTINGS.items():
        if settings[name] == default:
            del settings[name]
    text = json.dumps([corpus_digest, settings, asdict(frontend)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


def write(path: Path, statistics: Normalisation, measured_on: str | None = None, corpus: str = "") -> None:
    """Write a stats.json; arguments as in `Stored`."""
    values = {"mean": statistics.mean, "std": statistics.std, "measured_on": measured_on, "corpus": corpus}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as part:
            part.write_text(json.dumps(values) + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error}); make room and start again") from error


def read(path: Path) -> Stored | None:
    """Read what `write` wrote; None if there is no such file; ValueError if it holds something else."""
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        about = {name: values.pop(name, None) for name in ("measured_on", "corpus")} if isinstance(values, dict) else {}
        return Stored(read_section(Normalisation, values, str(path)), about["measured_on"], about["corpus"] or "")
    except ValueError as error:
        raise ValueError(f"{path}: not written by pretrain.stats ({error}); remove it") from error

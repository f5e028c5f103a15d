"""Mean and standard deviation of a corpus's log-mel spectrogram, measured once."""

import json
from itertools import islice
from pathlib import Path

import torch

from maeast_upstream.config import Normalisation, read_section
from maeast_upstream.frontend import Fbank, FrontendConfig, num_frames
from maeast_upstream.storage.atomic import replacing
from pretrain.config import DataConfig
from pretrain.data.batches import CropBatches, batches
from pretrain.data.failures import DecodeFailures
from pretrain.data.shards import ShardBatches

MEASURED_SECONDS = 3072.0
"""Seconds of crops over which statistics are measured."""
MIN_BATCHES, MAX_BATCHES = 4, 16
"""Fewest and most batches for that; 16 batches of 96 crops of 2 s are within 0.01 of the mean of all."""


def measure(
    source: CropBatches | ShardBatches, data: DataConfig, frontend: FrontendConfig, num_batches: int | None = None
) -> Normalisation:
    """Measure over all bins and frames of batches as training draws them, gains and mixing included.

    Raises:
        ValueError: the standard deviation is 0, or too many clips cannot be decoded.
    """
    if num_batches is None:
        seconds = data.batch_clips * data.crop_seconds
        num_batches = min(MAX_BATCHES, max(MIN_BATCHES, round(MEASURED_SECONDS / seconds)))
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


def write(path: Path, statistics: Normalisation) -> None:
    """Write a stats.json."""
    text = json.dumps({"mean": statistics.mean, "std": statistics.std}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read(path: Path) -> Normalisation | None:
    """Read what `write` wrote; None if there is no such file; ValueError if it holds something else."""
    if not path.exists():
        return None
    try:
        return read_section(Normalisation, json.loads(path.read_text(encoding="utf-8")), str(path))
    except ValueError as error:
        raise ValueError(f"{path}: not written by pretrain.stats ({error}); remove it") from error

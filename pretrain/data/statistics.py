"""Mean and standard deviation of a corpus's log-mel spectrogram, measured once."""

import json
from itertools import islice
from pathlib import Path

import torch

from maeast_upstream.config import Normalisation, read_section
from maeast_upstream.frontend import Fbank, num_frames
from maeast_upstream.storage.atomic import replacing
from pretrain.config import Recipe
from pretrain.data.batches import CropBatches, batches
from pretrain.data.failures import DecodeFailures
from pretrain.data.shards import ShardBatches

BATCHES, SECONDS = (4, 16), 3072.0
"""A mean is taken over so many seconds of crops, but no fewer and no more batches; 16 of 96 crops of 2 s are within
0.01 of the mean of all."""


def measure(source: CropBatches | ShardBatches, recipe: Recipe, num_batches: int | None = None) -> Normalisation:
    """Over all bins and frames of batches as training draws them (gains and mixing included).

    Raises:
        ValueError: the spectrogram has no deviation.
    """
    if num_batches is None:
        fewest, most = BATCHES
        num_batches = min(most, max(fewest, round(SECONDS / (recipe.data.batch_clips * recipe.data.crop_seconds))))
    if isinstance(source, CropBatches):  # whole batches, so that the mean does not depend on how they are shared
        source = CropBatches(source.clips, source.config, source.views, source.seed)
    fbank = Fbank(recipe.frontend)
    total = torch.zeros(2, dtype=torch.float64)
    count = 0
    bad = DecodeFailures(recipe.data.max_bad_share)
    loader = batches(
        source,
        0,
        num_batches,
        0 if isinstance(source, CropBatches) else recipe.data.workers,
    )
    for batch in islice(loader, num_batches * source.parts.accumulate):
        bad.add(batch)
        with torch.no_grad():
            values = fbank(batch.waveforms, batch.lengths).double()
        total += torch.stack([values.sum(), values.square().sum()])
        count += int(num_frames(batch.lengths).sum()) * values.shape[2]
    mean, square = (total / count).tolist()
    std = round(max(0.0, square - mean**2) ** 0.5, 4)
    if not std:
        raise ValueError(f"corpus {recipe.data.corpus}: its spectrogram is the same everywhere; is it all silence?")
    return Normalisation(mean=round(mean, 4), std=std)


def write(path: Path, found: Normalisation) -> None:
    """stats.json."""
    text = json.dumps({"mean": found.mean, "std": found.std}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read(path: Path) -> Normalisation | None:
    """What `write` wrote; None where there is no such file; ValueError if it is something else."""
    if not path.exists():
        return None
    try:
        return read_section(Normalisation, json.loads(path.read_text(encoding="utf-8")), str(path))
    except ValueError as error:
        raise ValueError(f"{path}: not what pretrain.stats writes ({error}); remove it") from error

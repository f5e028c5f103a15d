"""Feature vectors of the clips of a labelled set: frozen embeddings, log-mel statistics, random weights."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.arguments import parse_hop, parse_layer
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.batching import like_lengths
from maeast_upstream.encoder import Encoder, scene_vectors
from maeast_upstream.frontend import SAMPLE_RATE, SSAST_FRONTEND, WINDOW_SAMPLES, Fbank
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Mel, Pool, Readout, pool_time

READ_SECONDS = 600.0
"""Audio in memory at once (40 MB), to be sorted by length."""


BATCH_SECONDS = 60.0
"""Audio encoded at once, padding included: bounds what is kept, 110 MB for 12 layers of 8 x 768."""


def embeddings(paths: Sequence[Path], encoder: Encoder, readouts: Sequence[Readout]) -> dict[Readout, np.ndarray]:
    """(clips, dimensions) by readout, from one pass for all that share a hop."""
    table: dict[Readout, np.ndarray] = {}
    for rows, clips in read_batches(paths):
        for hop_ms in dict.fromkeys(readout.hop_ms for readout in readouts):
            same = [readout for readout in readouts if readout.hop_ms == hop_ms]
            for readout, vectors in zip(same, scene_vectors(encoder, clips, same), strict=True):
                if readout not in table:
                    table[readout] = np.empty((len(paths), vectors.shape[1]), np.float32)
                table[readout][rows] = vectors.cpu().numpy()
    return table


def logmel_features(paths: Sequence[Path]) -> np.ndarray:
    """(clips, 256): SSAST's log-mel, mean and deviation over time; the plain baseline."""
    fbank = Fbank(SSAST_FRONTEND)
    features = np.empty((len(paths), 2 * SSAST_FRONTEND.num_mel_bins), np.float32)
    for rows, clips in read_batches(paths):
        for row, clip in zip(rows, clips, strict=True):
            missing = max(0, WINDOW_SAMPLES - len(clip))
            logmel = fbank(torch.nn.functional.pad(clip, (0, missing))[None])
            frames = torch.tensor([logmel.shape[1]])
            features[row] = pool_time(logmel, frames, "mean_std")[0].numpy()
    return features


def randomised(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same encoder with the weights that training would begin with."""
    with torch.random.fork_rng(devices=[]):  # torch's initialisers take no generator
        torch.manual_seed(seed)
        fresh = Encoder(encoder.config, encoder.precision)
    return fresh.eval().to(encoder.device)


def read_batches(paths: Sequence[Path]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Row numbers and waveforms of clips of like length, for at most BATCH_SECONDS."""
    block: list[tuple[int, Tensor]] = []
    seconds = 0.0
    for row, path in enumerate(progress_bar(paths, unit="clip", leave=False)):
        block.append((row, torch.from_numpy(read_audio(path))))
        seconds += len(block[-1][1]) / SAMPLE_RATE
        if seconds > READ_SECONDS:
            yield from sorted_batches(block)
            block, seconds = [], 0.0
    yield from sorted_batches(block)


def sorted_batches(
    block: list[tuple[int, Tensor]],
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Cut numbered clips into batches of like length."""
    for batch in like_lengths([len(clip) for _, clip in block], BATCH_SECONDS * SAMPLE_RATE):
        yield [block[i][0] for i in batch], [block[i][1] for i in batch]


def readout_grid(
    default: Readout,
    layer: str | None,
    mel: str | None,
    pool: str | None,
    hop: str | None,
) -> list[Readout]:
    """All combinations of comma-separated choices, each once; ``default``'s own where None is given."""
    layers = [default.layer] if layer is None else [parse_layer(text) for text in layer.split(",")]
    mels = [default.mel] if mel is None else mel.split(",")
    pools = [default.pool] if pool is None else pool.split(",")
    hops = [default.hop_ms] if hop is None else [parse_hop(text) for text in hop.split(",")]
    grid = [
        Readout(layer=one, mel=cast(Mel, two), pool=cast(Pool, three), hop_ms=four)
        for one, two, three, four in itertools.product(layers, mels, pools, hops)
    ]
    return list(dict.fromkeys(grid))


def refuse_other_readouts(encoder: Encoder, readouts: Sequence[Readout]) -> None:
    """ValueError for a layer or hop that the encoder does not have, before any clip is read."""
    for readout in readouts:
        encoder.kept_layers(readout.layers(encoder.num_layers))
        encoder.grid(readout.hop_ms)


def describe(readout: Readout) -> str:
    """A readout in words."""
    hop = "native" if readout.hop_ms is None else f"{readout.hop_ms:g} ms"
    return f"layer {readout.layer}, mel {readout.mel}, pool {readout.pool}, hop {hop}"

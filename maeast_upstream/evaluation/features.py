"""Feature vectors for the clips of a labelled set: frozen embeddings, log-mel statistics, random weights."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.reading import read_audio
from maeast_upstream.encoder import Encoder
from maeast_upstream.frontend import SAMPLE_RATE, SSAST_FRONTEND, WINDOW_SAMPLES, Fbank
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Readout, pool_time

READ_SECONDS = 600.0
"""Audio read at once (40 MB), from which the encoder forms batches of clips of similar length."""


@torch.no_grad()
def embeddings(paths: Sequence[Path], encoder: Encoder, readouts: Sequence[Readout]) -> dict[Readout, np.ndarray]:
    """Embed clips with several readouts; each clip passes through the network once per hop.

    Returns:
        (clips, dimensions) float32 for each readout.
    """
    table: dict[Readout, np.ndarray] = {}
    for rows, clips in read_blocks(paths):
        for hop_ms in dict.fromkeys(readout.hop_ms for readout in readouts):
            same_hop = [readout for readout in readouts if readout.hop_ms == hop_ms]
            for readout, vectors in zip(same_hop, encoder.embed_readouts(clips, same_hop), strict=True):
                if readout not in table:
                    table[readout] = np.empty((len(paths), vectors.shape[1]), np.float32)
                table[readout][rows] = vectors.cpu().numpy()
    return table


def logmel_features(paths: Sequence[Path]) -> np.ndarray:
    """Compute the baseline: mean and standard deviation over time of SSAST's log-mel spectrogram, (clips, 256)."""
    fbank = Fbank(SSAST_FRONTEND)
    features = np.empty((len(paths), 2 * SSAST_FRONTEND.num_mel_bins), np.float32)
    for rows, clips in read_blocks(paths):
        for row, clip in zip(rows, clips, strict=True):
            missing = max(0, WINDOW_SAMPLES - len(clip))
            logmel = fbank(torch.nn.functional.pad(clip, (0, missing))[None])
            frames = torch.tensor([logmel.shape[1]])
            features[row] = pool_time(logmel, frames, "mean_std")[0].numpy()
    return features


def randomized(encoder: Encoder, seed: int = 0) -> Encoder:
    """Return the same encoder, frozen, with the random weights that pretraining would begin with, and no projection."""
    config = replace(encoder.config, readout=encoder.config.readout.full)
    with torch.random.fork_rng(devices=[]):  # torch's initializers take no generator
        torch.manual_seed(seed)
        fresh = Encoder(config, encoder.precision)
    return fresh.eval().requires_grad_(False).to(encoder.device)


def read_blocks(paths: Sequence[Path]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Read clips and yield them in blocks of READ_SECONDS.

    Yields:
        The clips' indices in ``paths``, and their (S_i,) waveforms.
    """
    rows: list[int] = []
    clips: list[Tensor] = []
    seconds = 0.0
    for row, path in enumerate(progress_bar(paths, unit="clip", leave=False)):
        rows.append(row)
        clips.append(torch.from_numpy(read_audio(path)))
        seconds += len(clips[-1]) / SAMPLE_RATE
        if seconds > READ_SECONDS:
            yield rows, clips
            rows, clips, seconds = [], [], 0.0
    if clips:
        yield rows, clips


def refuse_unknown_readouts(encoder: Encoder, readouts: Sequence[Readout]) -> None:
    """Check, before any clip is read, that the encoder has the readouts, see `Encoder.check_readout`.

    Raises:
        ValueError: it has not.
    """
    for readout in readouts:
        encoder.check_readout(readout)

"""Waveforms to embeddings: several readouts from one pass, batches of like length."""

import dataclasses
from collections.abc import Iterator, Sequence

from torch import Tensor

from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoded, Encoder
from maeast_upstream.readout import Readout, pool_time


def scene_vectors(encoder: Encoder, waveforms: Sequence[Tensor], readouts: Sequence[Readout]) -> list[Tensor]:
    """For each readout (B, E) float32, one vector a clip; the readouts share a hop."""
    states, encoded = step_vectors(encoder, waveforms, readouts)
    pairs = zip(states, readouts, strict=True)
    return [pool_time(state, encoded.lengths, readout.pool) for state, readout in pairs]


def step_vectors(
    encoder: Encoder, waveforms: Sequence[Tensor], readouts: Sequence[Readout]
) -> tuple[list[Tensor], Encoded]:
    """For each readout (B, T, C) float32, one vector a time step, with what `encode` tells of lengths and times.

    Raises:
        ValueError: the encoder is in train mode, where dropout would be in the vectors; the readouts ask for
            different hops, which one pass cannot give.
    """
    if encoder.training:
        raise ValueError("embeddings are those of a frozen encoder: call eval() first")
    encoded = encoder.read(waveforms, readouts=readouts)
    return encoded.hidden_states, dataclasses.replace(encoded, hidden_states=[])


def scene_width(config: EncoderConfig, readout: Readout) -> int:
    """E, the length of a scene's vector."""
    return step_width(config, readout) * (1 if readout.pool == "mean" else 2)


def step_width(config: EncoderConfig, readout: Readout) -> int:
    """C, the length of a time step's vector."""
    mel = config.model.mel_patches if readout.mel == "concat" else 1
    layers = config.model.depth if readout.layer == "all" else 1
    return config.model.embed_dim * mel * layers


def like_lengths(lengths: Sequence[int], limit: float) -> Iterator[list[int]]:
    """Cut clips into batches, longest first, of at most ``limit`` samples with padding; a longer clip goes by itself.

    Args:
        lengths: samples of each clip.
        limit: a batch's clips times its longest.

    Yields:
        Indices into ``lengths``.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, int(min(limit / max(1, lengths[order[0]]), len(order))))
        yield order[:size]
        order = order[size:]

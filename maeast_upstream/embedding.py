"""Waveforms to embeddings: several readouts from one pass, batches of like length."""

import dataclasses
from collections.abc import Iterator, Sequence

from torch import Tensor

from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoded, Encoder
from maeast_upstream.readout import Mel, Readout, combine_layers, fold_mel, pool_time


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
        ValueError: the readouts ask for different hops, which one pass cannot give.
    """
    if len({readout.hop_ms for readout in readouts}) != 1:
        raise ValueError(f"readouts of one pass share hop_ms, got {[readout.hop_ms for readout in readouts]}")
    layers = sorted({layer for readout in readouts for layer in readout.layers(encoder.num_layers)})
    side_by_side = any(readout.mel == "concat" for readout in readouts)
    mel: Mel = "concat" if side_by_side else "mean"
    encoded = encoder.encode(waveforms, layers=layers, mel=mel, hop_ms=readouts[0].hop_ms)
    states = dict(zip(layers, encoded.hidden_states, strict=True))
    result = []
    for readout in readouts:
        kept = [states[layer] for layer in readout.layers(encoder.num_layers)]
        if readout.mel == "mean" and side_by_side:
            tokens = (state.reshape(len(waveforms), -1, encoder.embed_dim) for state in kept)
            kept = [fold_mel(token, encoder.config.model.mel_patches, "mean") for token in tokens]
        result.append(combine_layers(kept, readout.layer))
    return result, dataclasses.replace(encoded, hidden_states=[])


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
        size = max(1, int(limit / max(1, lengths[order[0]])))
        yield order[:size]
        order = order[size:]

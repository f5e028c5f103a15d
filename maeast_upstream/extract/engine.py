"""Attaches the engine that suits a job: what it embeds, and how much audio."""

from typing import Any

from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.names import Choice
from maeast_upstream.engines.selection import attach
from maeast_upstream.engines.streams import streams_on
from maeast_upstream.extract.table import EmbeddingSpec


def attach_for(encoder: Encoder, spec: EmbeddingSpec, seconds: float, engine: Any, precision: Any) -> Choice:
    """Attach an engine for embedding this much audio, with as many streams as suit the device.

    Args:
        encoder: In eval mode.
        spec: What is embedded. Where windows overlap, or time steps are closer than the model's own, audio is encoded
            several times, which makes an engine pay earlier.
        seconds: About how long the audio is.
        engine: As in `attach`.
        precision: As in `attach`.

    Raises:
        ValueError: As in `attach`.
    """
    repeats = spec.windows.samples / spec.windows.step if spec.windows else 1.0
    passes = encoder.grid(spec.readouts[0].hop_ms).passes
    return attach(
        encoder,
        engine,
        precision,
        spec.layers(encoder.num_layers),
        streams=streams_on(encoder.device),
        audio_seconds=seconds * repeats * passes,
    )

"""Attaches the engine that suits a job: what it embeds, and how much audio."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.data.audio_length import seconds_of
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.data.windows import Windows
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.engines.names import Choice, check_names
from maeast_upstream.engines.selection import attach
from maeast_upstream.engines.streams import streams_on
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.progress import say


def load_for(
    inputs: Sequence[str | Path],
    checkpoint: str | None,
    device: str | None,
    precision: Any = "fp32",
    windows: Windows | None = None,
) -> Encoder:
    """Load an encoder for embedding inputs once by its own readout, with the engine that suits them.

    Args:
        inputs: Files, folders, manifests or tars.
        checkpoint: As in `load_model`.
        device: As in `load_model`.
        precision: As in `attach`.
        windows: How clips are cut.

    Raises:
        ValueError: As in `list_segments`, `load_model` and `attach`.
    """
    check_names("auto", precision)
    seconds = seconds_of(list_segments(inputs))
    encoder = load_model(checkpoint, device)
    spec = EmbeddingSpec(readouts=(encoder.config.readout,), windows=windows)
    choice = attach_for(encoder, spec, seconds, "auto", precision)
    if choice.engine != "torch" or choice.precision != precision:
        say(str(choice))
    return encoder


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

"""Reads audio files as 16 kHz mono samples, without torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maeast_upstream.audio.reading import AudioError, AudioWarning, decode_audio, from_samples, read_audio

__all__ = ["AudioError", "AudioWarning", "decode_audio", "from_samples", "read_audio"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `constants` can be imported without numpy."""
    if name not in __all__:
        raise AttributeError(f"module 'maeast_upstream.audio' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module("maeast_upstream.audio.reading"), name)
    return value

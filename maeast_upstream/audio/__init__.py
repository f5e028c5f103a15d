"""Reads audio files as 16 kHz mono samples, without torch."""

from maeast_upstream.audio.reading import AudioError, from_samples, read_audio

__all__ = ["AudioError", "from_samples", "read_audio"]

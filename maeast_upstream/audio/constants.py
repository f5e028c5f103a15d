"""The sample rate of every waveform, in a module that does not import torch."""

SAMPLE_RATE = 16_000
SAMPLES_PER_MS = 16

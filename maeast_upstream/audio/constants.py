"""Sample rate, window and hop, in a module that does not import torch."""

SAMPLE_RATE = 16_000
SAMPLES_PER_MS = 16
WINDOW_SAMPLES = 400
"""25 ms at 16 kHz: the window of an fbank frame."""
HOP_SAMPLES = 160
"""10 ms at 16 kHz: the distance of fbank frames."""
MAX_MS = 1e12
"""Latest time in ms: 31 years."""
MAX_HOURS = 24.0
"""Default limit of the audio of a file in hours, for `maeast embed` and `DecodePool`: a day of a recorder fits."""
FULL_SCALE = 32768.0
"""The int16 value of a sample of 1.0, so that 16-bit audio at 16 kHz keeps its exact values."""

"""The sample rate of every waveform here; apart from frontend.py because that needs torch, and decoding does not."""

SAMPLE_RATE = 16_000
SAMPLES_PER_MS = 16

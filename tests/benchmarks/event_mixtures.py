"""Recordings with drum hits at known times in pink noise, and the events.csv of these times: an event task.

``python tests/benchmarks/event_mixtures.py LABELS.csv OUT`` makes the task of docs/results/events.md: 110 recordings of
10 s with up to 10 hits each, 15 dB above the noise over their own length.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.audio.writing import write_wav
from maeast_upstream.data.labels import read_rows

COUNTS = {"train": 60, "valid": 20, "test": 30}
"""Recordings of each split, of that split's clips only."""
FULL_SCALE = 0.9
"""Peak of a recording that would be louder."""
GAP_SAMPLES = SAMPLE_RATE // 10
"""Between the end of an event and the start of the next one, at least."""


def write_mixtures(folder, labels, counts=COUNTS, seconds=10.0, events=10, snr_db=15.0, seed=0):
    """Write recordings into ``folder`` and return the path of their events.csv.

    Args:
        folder: to create.
        labels: a labels.csv with the columns path, label and split.
        counts: recordings of each split.
        seconds: length of each.
        events: in each, at most: where they do not fit there are fewer.
        snr_db: power of an event, over its own length, above that of the noise.
        seed: of every choice.
    """
    (folder / "audio").mkdir(parents=True)
    rows = read_rows(labels, ("label", "split"))
    rng = np.random.default_rng(seed)
    table = []
    for split, count in counts.items():
        clips = [(path, label) for path, (label, where) in rows.items() if where == split]
        for number in range(count):
            name = f"audio/{split}-{number:04d}.wav"
            samples, found = mix(clips, round(seconds * SAMPLE_RATE), events, snr_db, rng)
            write_wav(folder / name, samples)
            table.extend((name, label, f"{start:.4f}", f"{end:.4f}", split) for label, start, end in found)
    with (folder / "events.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "start_ms", "end_ms", "split"), *table])
    return folder / "events.csv"


def mix(clips, length, events, snr_db, rng):
    """Make one recording: (S,) samples, and label, start and end in ms of its events in order."""
    samples = pink_noise(length, rng)
    floor = power(samples)
    sounds = [
        (label, read_audio(path)) for path, label in (clips[row] for row in rng.integers(len(clips), size=events))
    ]
    found = []
    for start, label, sound in placed(sounds, length, rng):
        gain = np.sqrt(10 ** (snr_db / 10) * floor / max(power(sound), 1e-12))
        samples[start : start + len(sound)] += np.float32(gain) * sound
        found.append((label, 1000 * start / SAMPLE_RATE, 1000 * (start + len(sound)) / SAMPLE_RATE))
    return samples * np.float32(min(1.0, FULL_SCALE / max(float(np.abs(samples).max()), 1e-9))), found


def placed(sounds, length, rng):
    """Yield as many sounds as fit one behind the other, with their start samples; chance divides the free time."""
    used = np.cumsum([len(sound) + GAP_SAMPLES for _, sound in sounds])
    fitting = int((used <= length).sum())
    free = np.sort(rng.integers(length - int(used[fitting - 1]) + 1, size=fitting))
    before = [0, *used]
    for number, (label, sound) in enumerate(sounds[:fitting]):
        yield int(free[number] + before[number]), label, sound


def pink_noise(length, rng):
    """(length,) float32 noise of equal power in every octave, 40 dB below full scale."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), length)
    return (0.01 * noise / noise.std()).astype(np.float32)


def power(samples):
    """Mean square."""
    return float(np.mean(np.square(samples, dtype=np.float64)))


if __name__ == "__main__":
    print(write_mixtures(Path(sys.argv[2]), Path(sys.argv[1])))

"""``maeast fit`` on many clips whose vectors are there: seconds beside the embedding."""

import time

import numpy as np

from maeast_upstream.classification.examples import Examples
from maeast_upstream.classification.folder import CheckpointSource
from maeast_upstream.classification.labelled_clips import LabelledClip
from maeast_upstream.classification.training import train
from maeast_upstream.readout import Readout

CLIPS, WIDTH, LABELS = 10_000, 3072, 20
SEPARATION = 0.05
"""Distance of the labels' means, in standard deviations of a dimension."""


def run(clips: int = CLIPS, width: int = WIDTH) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    examples = labelled_vectors(clips, width)
    wall, processor = time.perf_counter(), time.process_time()
    trained = train(examples, "bench")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    what = f"fit, {clips:,} clips of {width:,} dimensions, {LABELS} labels, cross-validation"
    return [
        (f"{what}: seconds", f"{wall:.0f}", "under 60"),
        (f"{what}: seconds of processor time", f"{processor:.0f}", ""),
        (f"{what}: accuracy", f"{100 * trained.scores.accuracy:.1f} %", ""),
    ]


def labelled_vectors(clips: int, width: int) -> Examples:
    """Vectors with standard deviations of 1 / sqrt(k), about as those of real clips, in a random rotation."""
    random = np.random.default_rng(0)
    scale = 1 / np.sqrt(np.arange(1, width + 1, dtype=np.float32))
    rotation = np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)
    labels = random.integers(0, LABELS, clips)
    centres = SEPARATION * random.standard_normal((LABELS, width), dtype=np.float32)
    vectors = (random.standard_normal((clips, width), dtype=np.float32) + centres[labels]) * scale @ rotation
    rows = [
        LabelledClip(f"{number:05d}.wav", None, None, (f"label {label:02d}",), "", f"row {number}")
        for number, label in enumerate(labels)
    ]
    return Examples(vectors, rows, [], CheckpointSource("bundled", "0" * 64), Readout(), None)

"""``maeast predict`` against ``maeast embed``: what a classifier of 50 labels adds on the same windows."""

import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_embed import write_clips

from maeast_upstream import load_model
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.cli import main
from maeast_upstream.extract.table import EmbeddingSpec
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.readout import Readout

LABELS, FILES, SECONDS, ROUNDS = 50, 4, 60.0, 5
READOUT = Readout(layer="mean", pool="mean_max", hop_ms=None)
"""The bundled checkpoint's own with a quarter of the work, so that what the classifier adds weighs more."""
WINDOWS = ("--window", "2", "--overlap", "1")
# decoding in a thread, so that the processor time of this process is all of it
COMMON = (*WINDOWS, "--workers", "0", "--engine", "torch", "--force", "--quiet")


def run(rounds: int = ROUNDS) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = str(write_clips(folder / "clips", [SECONDS] * FILES))
        save_classifier(folder / "model")
        embed = ["embed", clips, "--hop-ms", "native", "-o", str(folder / "t.parquet"), *COMMON]
        predict = ["predict", clips, "-m", str(folder / "model"), "-o", str(folder / "found.parquet"), *COMMON]
        ratios = []
        for round_number in range(rounds + 1):  # the first is not counted
            # whichever runs second may find a warmer or busier machine
            order = (embed, predict) if round_number % 2 else (predict, embed)
            times = {command[0]: processor_seconds(command) for command in order}
            ratios.append(times["predict"] / times["embed"])
    what = f"predict / embed, processor time: {FILES} files of {SECONDS:g} s in windows of 2 s, {LABELS} labels"
    spread = f"{min(ratios[1:]):.3f} to {max(ratios[1:]):.3f}"
    return [(what, f"{statistics.median(ratios[1:]):.3f} ({spread})", "at most 1.05")]


def save_classifier(folder: Path) -> None:
    """One for the bundled checkpoint, with random weights."""
    model = load_model()
    random, width = np.random.default_rng(0), EmbeddingSpec(readouts=(READOUT,)).width(model.config)
    Classifier(
        labels=tuple(f"label {number:02d}" for number in range(LABELS)),
        checkpoint="bundled",
        fingerprint=fingerprint(model, model.config.readout),
        readout=READOUT,
        mean=np.zeros(width),
        scale=np.ones(width),
        weight=random.normal(size=(LABELS, width)),
        bias=np.zeros(LABELS),
        thresholds=np.full(LABELS, 0.5),
    ).save(folder)


def processor_seconds(command: list[str]) -> float:
    """Of a command of maeast, run in this process."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(command)
    assert status == 0, command
    return time.process_time() - start

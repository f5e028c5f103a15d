"""What a detector computes, and its folder."""

import dataclasses
import json

import numpy as np
import pytest

from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.events.detecting import WindowReader
from maeast_upstream.events.detector import EventDetector
from maeast_upstream.events.smoothing import Smoothing
from maeast_upstream.extract.table import Embedded
from maeast_upstream.readout import Readout

DIMENSIONS, LABELS, OFFSETS = 6, ("clap", "kick"), (-2, 0, 3)


@pytest.fixture
def detector():
    rng = np.random.default_rng(0)
    return EventDetector(
        labels=LABELS,
        checkpoint="bundled",
        fingerprint="0" * 64,
        readout=Readout(hop_ms=40.0),
        hop_ms=40.0,
        offsets=OFFSETS,
        mean=rng.standard_normal(DIMENSIONS),
        scale=rng.uniform(0.5, 2.0, DIMENSIONS),
        weight=rng.standard_normal((len(LABELS), len(OFFSETS) * DIMENSIONS)),
        bias=rng.standard_normal(len(LABELS)),
        smoothing=Smoothing(threshold=0.4, median_ms=120.0),
        about={"counts": {"train": 3}},
    )


def test_probabilities_are_those_of_the_formula(detector):
    steps = np.random.default_rng(1).standard_normal((9, DIMENSIONS)).astype(np.float32)
    found = detector.probabilities(steps)
    for t in range(len(steps)):
        logits = detector.bias.astype(np.float64)
        for number, offset in enumerate(OFFSETS):
            x = (steps[min(max(t + offset, 0), 8)] - detector.mean) / detector.scale
            logits = logits + detector.weight[:, number * DIMENSIONS : (number + 1) * DIMENSIONS] @ x
        np.testing.assert_allclose(found[t], 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert detector.probabilities(steps[:0]).shape == (0, 2)


def test_a_saved_detector_is_the_same(detector, tmp_path):
    detector.save(tmp_path / "drums")
    loaded = EventDetector.load(tmp_path / "drums")
    assert loaded.digest() == detector.digest()
    assert (loaded.smoothing, loaded.offsets, loaded.about) == (detector.smoothing, OFFSETS, detector.about)


def test_a_detector_is_not_a_classifier_of_clips(detector, tmp_path):
    detector.save(tmp_path / "drums")
    with pytest.raises(ValueError, match="a classifier of events; expected one of clips"):
        Classifier.load(tmp_path / "drums")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("offsets", [0, 0, 1], "offsets"),
        ("offsets", [0.5], "offset"),
        ("offsets", [0], "weight has shape"),
        ("hop_ms", 0, "hop_ms"),
        ("hop_ms", "fast", "hop_ms"),
        ("labels", ["kick"], "shape"),
        ("labels", ["kick", 7], "label"),
        ("smoothing", {"threshold": 0.5}, "smoothing"),
        ("smoothing", None, "smoothing"),
        ("readout", [], "readout"),
        ("fingerprint", "abc", "fingerprint"),
    ],
)
def test_a_folder_with_other_settings_is_refused_in_one_line(detector, tmp_path, name, value, words):
    detector.save(tmp_path / "drums")
    path = tmp_path / "drums" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=words) as error:
        EventDetector.load(tmp_path / "drums")
    assert "\n" not in str(error.value)


def test_a_window_that_could_not_be_embedded_ends_an_event(detector):
    reader = WindowReader(dataclasses.replace(detector, smoothing=Smoothing(threshold=0.0)))
    seconds = [(0.0, False), (58.0, False), (116.0, True)]
    windows = []
    for start, is_last in seconds:
        times = 1000 * start + 7.5 + 40.0 * np.arange(1500)
        vectors = np.zeros((1, 1500, DIMENSIONS), np.float32)
        windows.append(Embedded("a", 0, 1000 * start, 1000 * start + 60_000, vectors, times, is_last=is_last))
    assert [reader.add(window) for window in windows[:2]] == [None, None]
    found = reader.add(windows[2])
    assert [(event.start_ms, event.end_ms) for event in found.events] == [(0.0, 175_987.5)] * 2
    reader = WindowReader(dataclasses.replace(detector, smoothing=Smoothing(threshold=0.01)))
    assert reader.add(windows[0]) is None
    clap = [(event.start_ms, event.end_ms) for event in reader.add(windows[2]).events if event.label == "clap"]
    np.testing.assert_allclose(clap, [(0, 59_500), (116_000, 175_987.5)], atol=40)

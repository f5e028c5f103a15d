"""What a classifier computes, and what its folder refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.readout import Readout


def make(**changes):
    rng = np.random.default_rng(0)
    values = {
        "labels": ("call", "song", "trill"),
        "checkpoint": "bundled",
        "fingerprint": "0" * 64,
        "readout": Readout(pool="mean_max"),
        "mean": rng.normal(size=4),
        "scale": np.array([1.0, 2.0, 0.5, 1.0]),
        "weight": rng.normal(size=(3, 4)),
        "bias": rng.normal(size=3),
        "temperature": 1.5,
        "thresholds": np.array([0.5, 0.25, 0.1]),
        "about": {"clips": {"train": 3}, "classes": {"call": {"precision": None}}},
    }
    return Classifier(**{**values, **changes})


@pytest.fixture
def saved(tmp_path):
    make().save(tmp_path / "birds")
    return tmp_path / "birds"


def rewrite(folder, **changes):
    path = folder / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_probabilities_are_the_softmax_of_calibrated_logits():
    classifier, vectors = make(), np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    x = (vectors - classifier.mean) / classifier.scale
    logits = (x @ classifier.weight.T + classifier.bias) / 1.5
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = classifier.probabilities(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_multi_label_probability_is_that_of_its_label_alone():
    classifier, vectors = make(multi_label=True), np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    logits = ((vectors - classifier.mean) / classifier.scale @ classifier.weight.T + classifier.bias) / 1.5
    np.testing.assert_allclose(classifier.probabilities(vectors), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities_of_extreme_vectors_are_finite(multi_label):
    vectors = np.array([[1e30, -1e30, 1e30, 0.0]], np.float32)
    assert np.isfinite(make(multi_label=multi_label, temperature=1e-6).probabilities(vectors)).all()


def test_vectors_of_torch_and_lists_are_classified_as_those_of_numpy():
    vectors = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    expected = make().probabilities(vectors).tolist()
    assert make().probabilities(torch.from_numpy(vectors)).tolist() == expected
    assert make().probabilities(vectors.tolist()).tolist() == expected


def test_vectors_of_another_length_or_with_nan_are_refused():
    with pytest.raises(ValueError, match="4 dimensions"):
        make().probabilities(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        make().probabilities(np.full((2, 4), np.nan, np.float32))


def test_a_saved_classifier_loads_and_computes_the_same_bits(saved):
    before, after = make(), Classifier.load(saved)
    vectors = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
    assert (after.probabilities(vectors) == before.probabilities(vectors)).all()
    assert (after.labels, after.readout, after.about) == (before.labels, before.readout, before.about)
    assert (after.thresholds == before.thresholds).all()


def test_a_folder_with_its_own_encoder_can_be_moved(tmp_path):
    make(checkpoint=str(tmp_path / "old" / "encoder")).save(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert Classifier.load(tmp_path / "new").checkpoint == str(tmp_path / "new" / "encoder")


def test_an_encoder_that_is_missing_in_the_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(checkpoint="birds/encoder").save("birds")
    classifier = Classifier.load("birds")
    assert classifier.checkpoint == str(tmp_path / "birds" / "encoder")
    with pytest.raises(ValueError, match="no checkpoint '/.*/birds/encoder': expected a file or folder that exists"):
        next(classifier.predict(__file__))
    classifier.save("birds")
    assert json.loads(Path("birds/classifier.json").read_text())["checkpoint"] is None


def test_saving_again_replaces_the_classifier_and_leaves_other_files(saved):
    (saved / "notes.txt").write_text("mine")
    make(temperature=2.0).save(saved)
    assert Classifier.load(saved).temperature == 2.0
    assert sorted(path.name for path in saved.iterdir()) == ["classifier.json", "classifier.safetensors", "notes.txt"]


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        make().save(tmp_path / "absent" / "birds")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="a file"):
        make().save(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "events"}, "events"),
        ({"kind": 3}, "settings"),
        ({"labels": ["a", "b"]}, "shape"),
        ({"labels": ["a", "b", "a"]}, "twice"),
        ({"labels": ["a", "b", 3]}, "text"),
        ({"labels": ["a", "b", " "]}, "text"),
        ({"labels": ["a", "b", "\ud800"]}, "UTF-8"),
        ({"labels": "abc"}, "list"),
        ({"multi_label": "yes"}, "multi_label"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"thresholds": [0.5, 0.5]}, "thresholds"),
        ({"thresholds": [0.5, 0.5, 2]}, "thresholds"),
        ({"thresholds": [0.5, 0.5, "x"]}, "thresholds"),
        ({"thresholds": [0.5, 0.5, 1e39]}, "thresholds"),
        ({"fingerprint": "x"}, "fingerprint"),
        ({"checkpoint": 7}, "checkpoint"),
        ({"readout": {"layer": "last"}}, "readout"),
        ({"readout": {"layer": "top", "mel": "mean", "pool": "mean", "hop_ms": None}}, "layer"),
        ({"windows": {"seconds": -1, "overlap": 0}}, "window"),
        ({"windows": {"seconds": 10**400, "overlap": 0}}, "window"),
        ({"about": [1]}, "about"),
        ({"sha256": "0"}, "belongs"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(saved, changes, problem):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=problem) as caught:
        Classifier.load(saved)
    assert str(saved) in str(caught.value)


def write_arrays(folder, **changes):
    arrays = {name: getattr(make(), name) for name in ("mean", "scale", "weight", "bias")} | changes
    save_file({name: array for name, array in arrays.items() if array is not None}, folder / "classifier.safetensors")
    digest(folder)


def digest(folder):
    import hashlib

    rewrite(folder, sha256=hashlib.sha256((folder / "classifier.safetensors").read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"bias": None}, "missing"),
        ({"other": np.zeros(1, np.float32)}, "unexpected"),
        ({"bias": np.zeros(3)}, "float64"),
        ({"bias": np.full(3, np.nan, np.float32)}, "NaN"),
        ({"weight": np.zeros((3, 5), np.float32)}, "shape"),
        ({"scale": np.zeros(4, np.float32)}, "scale"),
        ({"weight": np.full((3, 4), 1e30, np.float32)}, "weight and bias must give logits below"),
        ({"bias": np.full(3, -3e38, np.float32)}, "weight and bias must give logits below"),
    ],
)
def test_wrong_numbers_are_refused_by_name(saved, changes, problem):
    write_arrays(saved, **changes)
    with pytest.raises(ValueError, match=problem):
        Classifier.load(saved)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{" * 16])
def test_a_broken_file_of_numbers_is_refused(saved, content):
    (saved / "classifier.safetensors").write_bytes(content)
    digest(saved)
    with pytest.raises(ValueError, match="broken"):
        Classifier.load(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"kind": NaN}', b"[" * 100_000, b'{"a": 1, "a": 2}'])
def test_a_broken_classifier_json_is_refused(saved, content):
    (saved / "classifier.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"classifier\.json"):
        Classifier.load(saved)


def test_pipes_and_absent_files_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        Classifier.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="not a classifier"):
        Classifier.load(tmp_path)
    (saved / "classifier.safetensors").unlink()
    with pytest.raises(ValueError, match="no classifier.safetensors"):
        Classifier.load(saved)
    os.mkfifo(saved / "classifier.safetensors")
    with pytest.raises(ValueError, match="pipe"):
        Classifier.load(saved)

"""`maeast probe` with one system; test_compare.py has several."""

import builtins
import csv
import os
import shutil

import numpy as np
import pytest
from labelled_clips import write_real_clips, write_tones

from maeast_upstream.arguments import UsageError
from maeast_upstream.audio.reading import AudioError
from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.commands import probe
from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation import comparison, features
from maeast_upstream.evaluation.features import randomized
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig

TINY = EncoderConfig(
    model=ModelConfig(
        patch_mels=16,
        num_mel_bins=32,
        embed_dim=16,
        depth=2,
        num_heads=2,
        ffn_dim=32,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
        decoder_ffn_dim=32,
    ),
    frontend=FrontendConfig(num_mel_bins=32),
)


DRUMS = {"cymbal_crash", "kick", "snare", "tom"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return randomized(Encoder(TINY))


@pytest.fixture(autouse=True)
def bundled(monkeypatch, encoder):
    monkeypatch.setattr(comparison, "load_model", lambda *_: encoder)


@pytest.fixture(scope="module")
def drums(tmp_path_factory):
    """Four classes of the real clips."""
    return write_real_clips(tmp_path_factory.mktemp("drums") / "labels.csv", DRUMS.__contains__)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


def test_easy_classes_are_told_apart_by_every_kind_of_features(tones, capsys):
    for kind in ("model", "random", "logmel"):
        assert probe.main([str(tones), "--features", kind]) == 0
        assert capsys.readouterr().out.splitlines()[-1].split("  ")[-3:-1] == ["100.0", "100.0"]


def test_logmel_beats_chance_on_real_clips(drums):
    (outcome,) = comparison.score_logmel([read_labels(drums)]).outcomes
    assert outcome.valid > 50


def test_a_grid_prints_valid_of_all_and_writes_test_of_the_best_only(tones, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert probe.main([str(tones), "--layer", "1,last", "--pool", "mean,mean_std", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("readout ")
    assert printed.count("layer 1, mel concat, pool mean_std, hop native") in (1, 2)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(row["valid_accuracy"] for row in rows)
    chosen = [row for row in rows if row["test_accuracy"]]
    assert len(chosen) == 1
    assert printed.splitlines()[-1].startswith("bundled ")
    assert printed.splitlines()[-1].endswith(f"  {chosen[0]['readout']}")
    assert chosen[0]["set"] == tones.parent.name
    assert (chosen[0]["train"], chosen[0]["valid"], chosen[0]["test"]) == ("12", "6", "6")
    assert list(tmp_path.iterdir()) == [out]


def test_several_sets_give_a_line_each_and_their_mean(tones, drums, capsys):
    assert probe.main([str(tones), str(drums), "--features", "logmel"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["log-mel", name] for name in (tones.parent.name, drums.parent.name, "mean")
    ]
    tests = [float(line.removesuffix("  mean and standard deviation").split()[-1]) for line in lines]
    assert tests[2] == pytest.approx(sum(tests[:2]) / 2, abs=0.06)


def test_labels_may_have_the_columns_separators_and_splits_of_others(tones, tmp_path, capsys):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    text = (
        tones.read_text()
        .replace(",", ";")
        .replace("valid", "Validation")
        .replace("path;label;split", "File;Class;Fold")
    )
    (folder / "labels.csv").write_text(text.replace(",", ";"), encoding="utf-16")
    options = ["--path-column", "file", "--label-column", "class", "--split-column", "fold", "--features", "logmel"]
    assert probe.main([str(folder / "labels.csv"), *options]) == 0
    other = capsys.readouterr().out
    assert probe.main([str(tones), "--features", "logmel"]) == 0
    assert other.split()[-5:] == capsys.readouterr().out.split()[-5:]
    with pytest.raises(ValueError, match=r"no column 'path'; .* got 'File', 'Class', 'Fold'; --path-column names"):
        probe.main([str(folder / "labels.csv")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("label", "class"), "no column 'label'; expected path,label,split"),
        (lambda text: text.replace("valid", "eval"), "unknown split 'eval'; expected train, valid, test, training"),
        (lambda text: text.replace("valid", "train"), "no clip in split valid"),
        (lambda text: text.replace("low,test", "bass,test", 1), "no clip of class 'bass' in train"),
        (lambda text: text.replace("low", "high"), "only one class, 'high'"),
        (lambda text: text.replace("3.wav", "nowhere.wav", 1), "no such clip"),
        (lambda text: text.replace("3.wav", "4.wav", 1), "a second time"),
        (lambda text: text.replace("low", "", 1), "row 2 has no label"),
        (lambda text: text.splitlines()[0], "no rows below the header"),
        (lambda text: "", "no column 'path'; expected path,label,split, got nothing"),
        (lambda text: "\0\n" + text, "no column 'path'"),
        (lambda text: text.replace("3.wav", "3\0.wav", 1), "row 4: .* is not a path"),
        (lambda text: text.replace("split", "split,label", 1), "two columns are called 'label'"),
    ],
)
def test_labels_that_cannot_be_probed_are_refused_by_name(tones, tmp_path, change, message):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    (folder / "labels.csv").write_text(change(tones.read_text()))
    with pytest.raises(ValueError, match=message) as caught:
        probe.main([str(folder / "labels.csv")])
    assert str(folder / "labels.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_labels_file_that_is_missing_or_not_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"labels\.csv: no such file"):
        probe.main([str(tmp_path / "labels.csv")])
    (tmp_path / "labels.csv").write_bytes(b"path,label,split\nx,\xff\xfe,train\n")
    with pytest.raises(ValueError, match=r"labels\.csv: row 1: \\xff\\xfe is not in UTF-8"):
        probe.main([str(tmp_path / "labels.csv")])


def test_a_set_of_any_name_is_written(tones, tmp_path):
    folder = shutil.copytree(tones.parent, tmp_path / os.fsdecode(b"s\xe9t"))
    assert probe.main([str(folder / "labels.csv"), "--features", "logmel", "-o", str(tmp_path / "out")]) == 0
    assert "s\\xe9t" in (tmp_path / "out" / "probe.md").read_text()


def test_a_clip_that_is_no_audio_is_named(tones, tmp_path):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    (folder / "3.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"3\.wav"):
        probe.main([str(folder / "labels.csv")])


def test_sets_of_one_name_are_refused(tones):
    with pytest.raises(ValueError, match="two sets are called"):
        probe.main([str(tones), str(tones)])


@pytest.mark.parametrize("option", ["labels", "features", "finetuned", "folder"])
def test_no_output_replaces_an_input(tones, tmp_path, option):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    labels = shutil.copy(folder / "labels.csv", folder / "probe.csv")
    scores = tmp_path / "scores.csv"
    scores.write_text("set,test_accuracy\nprobe,50\n")
    before = labels.read_bytes(), scores.read_bytes()
    options = {
        "labels": ["--features", "logmel", "-o", str(labels)],
        "folder": ["--features", "logmel", "-o", str(folder)],
        "features": ["--features", f"x={labels}", "-o", str(labels)],
        "finetuned": ["--features", "logmel", "--finetuned", f"x={scores}", "-o", str(scores)],
    }
    with pytest.raises(ValueError, match="an input, and an output of this run"):
        probe.main([str(labels), *options[option]])
    assert (labels.read_bytes(), scores.read_bytes()) == before


def test_times_in_a_table_of_labels_are_named_as_ignored(tones, tmp_path, caplog):
    folder = shutil.copytree(tones.parent, tmp_path / "set")
    table = folder / "labels.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{head},start,end", *(f"{row},0,0.1" for row in rows)]))
    read_labels(table)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "ignored: 'end', 'start'; files are read as a whole"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "1,3"], "layers are counted from 1 to 2"),
        (["--layer", "first"], "layer must be a number"),
        (["--pool", "mean,median"], "pool must be mean"),
        (["--hop-ms", "40,50"], "this model's time steps"),
        (["--hop-ms", "nan"], "hop_ms must be a finite number"),
        (["--layer", "²"], "layer must be a number"),
        (["--layer", ""], "layer must be a number"),
        (["--features", "random", "--seed", "9" * 20], "a seed is a whole number"),
        (["--features", "logmel", "--layer", "2"], "--layer applies to --features model and random only"),
        (["-o", "nowhere/scores.csv"], "nowhere: no such folder"),
        (["--features", "mfcc"], "--features must be model, random, logmel or NAME=FILE"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_clip_is_read(tones, monkeypatch, options, message):
    monkeypatch.setattr(features, "read_blocks", None)
    with pytest.raises(ValueError, match=message):
        probe.main([str(tones), *options])


def test_without_scikit_learn_the_error_names_the_extra(tones, monkeypatch):
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ValueError, match=r"pip install .*\[probe\]'"):
        probe.main([str(tones), "--features", "logmel"])


@pytest.mark.parametrize("labels", ["drums", "tones"])  # more labels than two, and two
def test_the_saved_probe_finds_the_labels_that_it_was_scored_with(labels, request, tmp_path, capsys, encoder):
    path = request.getfixturevalue(labels)
    assert probe.main([str(path), "--save", str(tmp_path / "model"), "--layer", "2"]) == 0
    shown = capsys.readouterr().out
    classifier = Classifier.load(tmp_path / "model")
    labelled_set = read_labels(path)
    vectors = features.embeddings(labelled_set.paths, encoder, [classifier.readout])[classifier.readout]
    found = np.array(classifier.labels)[classifier.probabilities(vectors).argmax(axis=1)]
    for split in ("valid", "test"):
        rows = labelled_set.splits == split
        assert f"{100 * (found == labelled_set.labels)[rows].mean():.1f}" in shown
    assert (classifier.checkpoint, classifier.fingerprint) == ("bundled", fingerprint(encoder))
    assert classifier.readout.layer == 2


def test_a_probe_of_several_sets_or_other_features_is_not_saved(drums, tones, tmp_path):
    for words in ([drums, tones], [drums, "--features", "logmel"], [drums, "--checkpoint", "a=", "--checkpoint", "b="]):
        with pytest.raises(UsageError, match="--save"):
            probe.main([*map(str, words), "--save", str(tmp_path / "model")])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="a file"):
        probe.main([str(drums), "--save", str(tmp_path / "file")])
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_int8_scores_what_openvino_computes(drums, monkeypatch):
    pytest.importorskip("openvino")
    fresh = randomized(Encoder(TINY)).eval().requires_grad_(False)
    monkeypatch.setattr(comparison, "load_model", lambda *_: fresh)
    assert probe.main([str(drums), "--precision", "int8"]) == 0
    assert fresh.runtime.transformer is not None

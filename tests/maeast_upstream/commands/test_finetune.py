"""`maeast finetune`."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch
from labelled_clips import save_small_checkpoint, write_real_clips
from safetensors import safe_open

from maeast_upstream.classification.classifier import Classifier
from maeast_upstream.cli import run
from maeast_upstream.commands import finetune, predict
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.finetune import FineTuning
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.fingerprint import load_same


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_small_checkpoint(tmp_path_factory.mktemp("start") / "encoder")


@pytest.fixture(scope="module")
def drums(tmp_path_factory):
    path = tmp_path_factory.mktemp("drums") / "labels.csv"
    return write_real_clips(path, {"kick", "cymbal_crash", "snare"}.__contains__)


def weights(folder):
    return load_model(folder).network.state_dict()


@pytest.mark.slow
def test_a_few_epochs_learn_the_drums_and_leave_an_encoder_a_head_and_a_table(
    start, drums, tmp_path, capsys, monkeypatch
):
    real = FineTuning._accuracy_of  # the beginning is not kept, so that the encoder is another
    monkeypatch.setattr(FineTuning, "_accuracy_of", lambda self, *rest: real(self, *rest) if self.best else 0.0)
    command = [
        str(drums),
        "-o",
        str(tmp_path),
        "--checkpoint",
        str(start),
        "--epochs",
        "6",
        "--patience",
        "0",
        "--folds",
        "0",
    ]
    assert finetune.main([*command, "--encoder-lr", "1e-3", "--lr", "1e-3", "--batch-clips", "4"]) == 0
    shown = capsys.readouterr().out
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    folder = tmp_path / row["set"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(7))
    assert log[-1]["loss"] < 0.8 * log[1]["loss"]
    assert float(row["probe_valid_accuracy"]) == log[0]["valid"]
    best = max(log, key=lambda line: line["valid"])
    assert (row["epoch"], float(row["valid_accuracy"])) == (str(best["epoch"]), pytest.approx(best["valid"], abs=0.01))
    assert f"{float(row['test_accuracy']):.1f}" in shown
    assert "mean" not in shown  # of a single set
    assert shown.endswith(f"encoder: {folder / 'encoder'}; try maeast embed --checkpoint {tmp_path}\n")
    assert all(torch.equal(value, weights(folder / "encoder")[name]) for name, value in weights(tmp_path).items())
    changed = weights(folder / "encoder")
    before = weights(start)
    assert all(not torch.equal(changed[name], before[name]) for name in before if name.startswith("encoder.blocks"))
    assert all(torch.equal(changed[name], before[name]) for name in before if "decoder" in name)
    with safe_open(folder / "head.safetensors", "pt") as head:
        assert json.loads(head.metadata()["classes"]) == ["cymbal_crash", "kick", "snare"]
        scores = load_model(folder / "encoder").embed(
            [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in read_labels(drums).paths],
            readout=Classifier.load(folder).readout,
        )
        logits = scores @ head.get_tensor("weight").T + head.get_tensor("bias")
    classifier = Classifier.load(folder)
    encoder = load_same(classifier.checkpoint, classifier.fingerprint)  # its own, wherever the folder lies
    assert encoder.config.readout == classifier.readout == load_model(start).config.readout
    found = classifier.probabilities(scores.numpy())
    expected = torch.softmax(logits / classifier.temperature, dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    inputs = [str(path) for path in read_labels(drums).paths[:2]]
    assert predict.main([*inputs, "-m", str(folder), "-o", str(tmp_path / "found.csv"), "--workers", "0"]) == 0
    (folder / "classifier.json").unlink()  # as in a folder of an earlier version
    assert finetune.main([*command, "--encoder-lr", "1e-3", "--lr", "1e-3", "--batch-clips", "4"]) == 0
    assert (Classifier.load(folder).weight == classifier.weight).all()
    labelled_set = read_labels(drums)
    right = np.array(["cymbal_crash", "kick", "snare"])[logits.argmax(1).numpy()] == labelled_set.labels
    assert 100 * right[labelled_set.splits == "test"].mean() == pytest.approx(float(row["test_accuracy"]), abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "-1"], "epochs must not be negative, got -1"),
        (["--batch-clips", "0"], "batch-clips must be at least 1, got 0"),
        (["--folds", "1"], "folds must be 0, or at least 2, got 1"),
        (["--freeze", "-1"], "freeze must not be negative, got -1"),
        (["--freeze", "13"], "freeze must be at most 3, the layers of the model, got 13"),
        (["--lora", "1000"], "lora must be at most 32, the width of the model, got 1000"),
        (["--hop-ms", "soon"], "--hop-ms must be native or a number, got 'soon'"),
        (["--pool", "median"], "pool must be mean, mean_max or mean_std, got 'median'"),
        (["--layer-decay", "1.5"], "layer-decay must lie in (0, 1], got 1.5"),
        (["--mixup", "-1"], "mixup must not be negative, got -1.0"),
        (["--lr", "0"], "lr must be above 0"),
        (["--encoder-lr", "nan"], "encoder-lr must be a finite number, got nan"),
        (["--mixup", "inf"], "mixup must be a finite number, got inf"),
        (["--seed", "99999999999999999"], "a seed is a whole number from 0 to 4294967295"),
        (["--precision", "int8"], "fine-tuning needs precision fp32 or bf16, got 'int8'"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--lr", "1e30", "--encoder-lr", "1e30", "--patience", "0"], "NaN or infinite; lower lr"),
    ],
)
def test_what_cannot_be_done_is_one_line(start, drums, tmp_path, capsys, options, message):
    command = [str(drums), "-o", str(tmp_path / "out"), "--checkpoint", str(start), *options]
    assert run(finetune.main, command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_scores_do_not_replace_the_labels(drums, tmp_path):
    labels = tmp_path / "scores.csv"
    labels.write_bytes(drums.read_bytes())
    with pytest.raises(ValueError, match="an input, and an output of this run"):
        finetune.main([str(labels), "-o", str(tmp_path)])
    assert labels.read_bytes() == drums.read_bytes()

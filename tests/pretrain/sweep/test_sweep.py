"""A sweep from its YAML to its tables and curves."""

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from maeast_upstream.cli import run
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.features import embeddings
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.evaluation.linear_probe import probe
from pretrain.sweep import __main__, runs
from pretrain.sweep import scores as sweep_scores
from pretrain.sweep.curve import encoder_at
from pretrain.sweep.plan import read_sweep
from pretrain.sweep.scores import READOUTS
from pretrain.trainer import Trainer
from pretrain.training.run_folder import states, steps_done

pytestmark = pytest.mark.slow

LABELS = Path(__file__).parents[2] / "data" / "labels.csv"


@pytest.fixture
def measured(monkeypatch):
    """Names of the sets that were probed; each gives another accuracy than the one before."""
    names = []

    def measure(labelled, encoder, readouts):
        names.append(labelled.name)
        return {readout: 50.0 + len(names) for readout in readouts}

    monkeypatch.setattr(sweep_scores, "valid_accuracies", measure)
    return names


def rows(out, name="losses"):
    with (out / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_labels(path, change=lambda row: row):
    """The repository's labels.csv under another name, with ``change`` of its rows; a clip's path is absolute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with LABELS.open(newline="", encoding="utf-8") as file, path.open("w", newline="", encoding="utf-8") as copy:
        writer = csv.DictWriter(copy, ["path", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        for row in csv.DictReader(file):
            writer.writerow(change({**row, "path": str(LABELS.parent / row["path"])}))
    return path


def test_each_run_has_a_row_with_losses_and_the_valid_accuracy_of_both_readouts(settings, write, tmp_path, capsys):
    out = tmp_path / "out"
    assert __main__.main([str(write(settings)), "--out", str(out), "--labels", str(LABELS)]) == 0
    table = rows(out)
    order = [("joint", "0"), ("no InfoNCE", "0"), ("joint", "1"), ("no InfoNCE", "1")]
    assert [(row["variant"], row["seed"]) for row in table] == order
    assert all(float(row["reconstruction"]) > 0 and float(row["seconds"]) > 0 for row in table)
    assert [bool(row["classification"]) for row in table] == [True, False] * 2
    one, folder = read_labels(LABELS), out / "runs" / table[1]["run"]
    features = embeddings(one.paths, load_model(folder), list(READOUTS.values()))
    for name, readout in READOUTS.items():
        expected = probe(features[readout], one.labels, one.splits).valid
        assert float(table[1][name]) == float(table[1][f"{name}_data"]) == pytest.approx(expected, abs=0.01)
    assert (out / "losses.md").read_text().strip() in capsys.readouterr().out


def test_test_clips_are_not_read(settings, write, tmp_path, monkeypatch):
    one = read_labels(LABELS)
    seen = []
    monkeypatch.setattr(
        "maeast_upstream.evaluation.linear_probe.embeddings",
        lambda paths, *rest: seen.extend(paths) or embeddings(paths, *rest),
    )
    command = [str(write({**settings, "seeds": [0]})), "--out", str(tmp_path), "--labels", str(LABELS), "--runs", "1"]
    assert __main__.main(command) == 0
    splits = dict(zip(one.paths, one.splits, strict=True))
    assert {splits[path] for path in seen} == {"train", "valid"}


def test_finished_runs_are_not_repeated_and_a_started_one_continues(settings, write, tmp_path, monkeypatch):
    command = [str(write(settings)), "--out", str(tmp_path)]
    begun = list(read_sweep(write(settings)).runs(tmp_path))[1].recipe
    Trainer(dataclasses.replace(begun, max_minutes=1e-9)).train()
    assert steps_done(Path(begun.out)) == 1
    assert __main__.main([*command, "--runs", "1"]) == 0
    assert len(rows(tmp_path)) == 1
    trained = []
    real = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self: trained.append((self.run, self.step)) or real(self))
    assert __main__.main(command) == 0
    assert len(trained) == 3
    assert trained[0] == (Path(begun.out), 1)
    assert len(rows(tmp_path)) == 4
    assert __main__.main(command) == 0
    assert len(trained) == 3


def test_a_killed_sweep_has_the_rows_of_finished_runs(settings, write, tmp_path, monkeypatch):
    real = runs.complete

    def killed_in_the_second(one, sets):
        if one.variant == "no InfoNCE":
            raise KeyboardInterrupt
        return real(one, sets)

    monkeypatch.setattr(runs, "complete", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        __main__.main([str(write(settings)), "--out", str(tmp_path)])
    assert [row["variant"] for row in rows(tmp_path)] == ["joint"]


def test_a_signal_stops_the_sweep(settings, write, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(Trainer, "train", lambda self: trained.append(self.close()))
    assert __main__.main([str(write(settings)), "--out", str(tmp_path)]) == 130
    assert len(trained) == 1


def test_a_run_that_diverges_is_named_and_the_rest_is_done(settings, write, tmp_path, capsys):
    settings["variants"]["wild"] = {"optim.lr": 1e30}
    assert __main__.main([str(write({**settings, "seeds": [0]})), "--out", str(tmp_path)]) == 3
    assert [row["variant"] for row in rows(tmp_path)] == ["joint", "no InfoNCE"]
    assert "not done: wild, seed 0: batch " in capsys.readouterr().err


def test_curves_have_a_row_for_each_save_and_a_picture(settings, write, tmp_path):
    settings = {**settings, "seeds": [2]}
    command = [str(write(settings)), "--out", str(tmp_path), "--keep_last", "1"]
    assert __main__.main(command) == 0  # the same runs, of which the last save stays
    command = [str(write({**settings, "curve": True})), "--out", str(tmp_path), "--labels", str(LABELS)]
    assert __main__.main(command) == 0
    curve = rows(tmp_path, "losses_curve")
    assert [(row["variant"], row["step"]) for row in curve] == [(v, s) for v in settings["variants"] for s in "36"]
    last = {row["variant"]: (row["plain"], row["rich"]) for row in rows(tmp_path)}
    assert {row["variant"]: (row["plain"], row["rich"]) for row in curve if row["step"] == "6"} == last
    folder = tmp_path / "runs" / rows(tmp_path)[0]["run"]
    first, second = (encoder_at(state, folder).network.patch_embed.weight for state in states(folder))
    assert not torch.equal(first, second)
    assert torch.equal(second, load_model(folder).network.patch_embed.weight)
    assert (tmp_path / "losses_curve.png").stat().st_size > 5000
    assert __main__.main(command[:3]) == 0
    assert rows(tmp_path, "losses_curve") == curve


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda row: row, 0),
        (lambda row: {**row, "label": "kick"} if row["split"] == "test" else row, 0),
        (lambda row: {**row, "split": {"valid": "test", "test": "valid"}.get(row["split"], row["split"])}, 1),
        (lambda row: {**row, "label": row["label"] + "s"}, 1),
    ],
    ids=["same", "test only", "splits", "labels"],
)
def test_scores_are_kept_for_the_same_clips_labels_and_splits_only(settings, write, tmp_path, measured, change, again):
    settings = {**settings, "seeds": [0], "variants": {"joint": None}}
    command = [str(write(settings)), "--out", str(tmp_path / "out"), "--labels"]
    assert __main__.main([*command, str(LABELS)]) == 0
    other = write_labels(tmp_path / "other" / "data" / "labels.csv", change)
    assert __main__.main([*command, str(other)]) == 0
    assert measured == ["data"] * (1 + again)
    assert float(rows(tmp_path / "out")[0]["plain_data"]) == 51 + again


def test_scores_of_replaced_clips_are_measured_again_but_not_of_moved_clips(settings, write, tmp_path, measured):
    labels = write_labels(tmp_path / "data" / "labels.csv", lambda row: {**row, "path": Path(row["path"]).name})
    shutil.copytree(LABELS.parent / "audio", labels.parent, dirs_exist_ok=True)
    settings = {**settings, "seeds": [0], "variants": {"joint": None}}
    command = [str(write(settings)), "--out", str(tmp_path / "out"), "--labels"]
    assert __main__.main([*command, str(labels)]) == 0
    moved = labels.parent.rename(tmp_path / "out" / "data") / "labels.csv"
    assert __main__.main([*command, str(moved)]) == 0
    assert len(measured) == 1
    one = read_labels(moved)
    first, second = [path for path, split in zip(one.paths, one.splits, strict=True) if split == "train"][:2]
    first.write_bytes(second.read_bytes())
    assert __main__.main([*command, str(moved)]) == 0
    assert len(measured) == 2


def test_without_labels_the_table_keeps_the_scores_that_are_known(settings, write, tmp_path, measured):
    settings = {**settings, "seeds": [0], "groups": {"speech": ["a"], "sound": ["b"]}}
    labels = [str(write_labels(tmp_path / f"{name}.csv")) for name in "ab"]
    command = [str(write(settings)), "--out", str(tmp_path)]
    assert __main__.main([*command, "--labels", *labels]) == 0
    table, text = rows(tmp_path), (tmp_path / "losses.md").read_text()
    assert __main__.main(command) == 0
    assert rows(tmp_path) == table
    assert (tmp_path / "losses.md").read_text() == text

    settings["variants"]["new"] = {"losses.classification": 0.5}
    command = [str(write(settings)), *command[1:]]
    assert __main__.main(command) == 0
    assert [row["plain"] for row in rows(tmp_path)] == [*(row["plain"] for row in table), ""]
    write_labels(Path(labels[0]), lambda row: {**row, "label": row["label"] + "s"})
    assert __main__.main([*command, "--runs", "1", "--labels", *labels]) == 0
    assert __main__.main(command) == 0  # the first run is scored on another a than the second: only b compares them
    columns = ["plain", "plain_b"]
    assert [[name for name in row if name.startswith("plain")] for row in rows(tmp_path)] == [columns] * 3
    assert [row["plain"] for row in rows(tmp_path)] == [*(row["plain_b"] for row in table), ""]
    assert measured == ["a", "b", "a", "b", "a"]


def test_the_number_of_finished_runs_is_printed_until_all_are_finished(settings, write, tmp_path, capsys):
    command = [str(write({**settings, "seeds": [0]})), "--out", str(tmp_path), "--runs"]
    assert __main__.main([*command, "0"]) == 0
    assert capsys.readouterr().out == "0 of 2 runs finished\n"
    assert __main__.main([*command, "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 runs finished"
    assert __main__.main([*command, "1"]) == 0
    assert "finished" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{}", "[1]", "", '{"provenance": {"steps": null}}'])
def test_a_run_whose_config_is_broken_is_one_line_before_anything_is_trained(
    settings, write, tmp_path, capsys, monkeypatch, text
):
    second = Path(list(read_sweep(write(settings)).runs(tmp_path))[1].recipe.out)
    config = second / "last" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    monkeypatch.setattr(Trainer, "train", lambda self: pytest.fail("trained"))
    assert run(__main__.main, [str(write(settings)), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error == f"error: {config}: no number of steps in it; remove {second} to train the run again\n"


def test_foreign_scores_a_curve_without_states_and_two_sets_of_one_name_are_one_line_errors(
    settings, write, tmp_path, capsys
):
    command = [str(write({**settings, "seeds": [0], "curve": True})), "--out", str(tmp_path), "--labels", str(LABELS)]
    assert run(__main__.main, [*command, str(LABELS)]) == 1
    assert "two sets are called 'data'" in capsys.readouterr().err
    assert run(__main__.main, command) == 0
    folder = tmp_path / "runs" / rows(tmp_path)[0]["run"]
    (folder / "probes.json").write_text('{"data": 50.0}')
    capsys.readouterr()
    assert run(__main__.main, command) == 1
    assert f"{folder / 'probes.json'}: not the scores of a run" in capsys.readouterr().err
    (folder / "probes.json").unlink()
    shutil.rmtree(folder / "states")
    assert run(__main__.main, command) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "error: " in error


def test_a_missing_sweep_and_a_missing_corpus_are_one_line_errors(settings, write, tmp_path, capsys):
    assert run(__main__.main, ["nowhere.yaml"]) == 1
    assert "nowhere.yaml: no such file" in capsys.readouterr().err
    command = [str(write(settings)), "--out", str(tmp_path), "--data.corpus", "nowhere", "--data.packed", "nowhere"]
    assert run(__main__.main, command) == 1
    assert "Traceback" not in capsys.readouterr().err

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from maeast_upstream.cli import run
from maeast_upstream.encoder import load_model
from maeast_upstream.probe import embeddings, probe, read_labels
from pretrain import sweep, sweep_table
from pretrain.queue import steps_done
from pretrain.run import states
from pretrain.sweep_curve import encoder_at
from pretrain.sweep_plan import digest, read_sweep
from pretrain.sweep_scores import READOUTS
from pretrain.trainer import Trainer

ROOT = Path(__file__).parents[2]
SWEEPS = [path for path in sorted((ROOT / "configs" / "ablations").glob("*.yaml")) if path.stem != "common"]
LABELS = ROOT / "tests" / "data" / "labels.csv"


@pytest.fixture
def settings(recipe, tmp_path):
    """A sweep of two variants and two seeds, of six batches each."""
    base = {**dataclasses.asdict(recipe), "tensorboard": False}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    return {
        "base": "base.yaml",
        "settings": {"masking.ratio": 0.5},
        "variants": {"joint": None, "no InfoNCE": {"losses.classification": 0.0}},
        "seeds": [0, 1],
    }


@pytest.fixture
def write(tmp_path):
    def write(settings):
        path = tmp_path / "losses.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    return write


def rows(out):
    with (out / "losses.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_package_is_of_valid_recipes_and_opens_with_its_launch_line(path, tmp_path):
    planned = list(read_sweep(path).runs(tmp_path))
    assert len({one.recipe.out for one in planned}) == len(planned)
    assert f"python -m pretrain.sweep configs/ablations/{path.name} " in path.read_text()
    assert {one.recipe.device for one in planned} == {"cpu"}


def test_the_sweeps_train_what_they_share_once(tmp_path):
    losses, ratio = (next(read_sweep(path).runs(tmp_path)) for path in SWEEPS if path.stem in ("losses", "mask_ratio"))
    assert losses.recipe == ratio.recipe


def test_a_row_a_run_with_the_losses_and_the_valid_accuracy_of_both_readouts(settings, write, tmp_path, capsys):
    out = tmp_path / "out"
    assert sweep.main([str(write(settings)), "--out", str(out), "--labels", str(LABELS)]) == 0
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
        "maeast_upstream.probe.embeddings", lambda paths, *rest: seen.extend(paths) or embeddings(paths, *rest)
    )
    command = [str(write({**settings, "seeds": [0]})), "--out", str(tmp_path), "--labels", str(LABELS), "--runs", "1"]
    assert sweep.main(command) == 0
    splits = dict(zip(one.paths, one.splits, strict=True))
    assert {splits[path] for path in seen} == {"train", "valid"}


def test_what_is_finished_is_not_repeated_and_a_begun_run_goes_on(settings, write, tmp_path, monkeypatch):
    command = [str(write(settings)), "--out", str(tmp_path)]
    begun = list(read_sweep(write(settings)).runs(tmp_path))[1].recipe
    Trainer(dataclasses.replace(begun, max_minutes=1e-9)).train()
    assert steps_done(Path(begun.out)) == 1
    assert sweep.main([*command, "--runs", "1"]) == 0
    assert len(rows(tmp_path)) == 1
    trained = []
    real = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self: trained.append((self.run, self.step)) or real(self))
    assert sweep.main(command) == 0
    assert len(trained) == 3
    assert trained[0] == (Path(begun.out), 1)
    assert len(rows(tmp_path)) == 4
    assert sweep.main(command) == 0
    assert len(trained) == 3


def test_a_killed_sweep_has_the_rows_of_what_was_finished(settings, write, tmp_path, monkeypatch):
    real = sweep.complete

    def killed_in_the_second(one, sets):
        if one.variant == "no InfoNCE":
            raise KeyboardInterrupt
        return real(one, sets)

    monkeypatch.setattr(sweep, "complete", killed_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        sweep.main([str(write(settings)), "--out", str(tmp_path)])
    assert [row["variant"] for row in rows(tmp_path)] == ["joint"]


def test_a_signal_stops_the_sweep(settings, write, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(Trainer, "train", lambda self: trained.append(self.close()))
    assert sweep.main([str(write(settings)), "--out", str(tmp_path)]) == 130
    assert len(trained) == 1


def test_a_run_that_diverges_is_named_and_the_rest_is_done(settings, write, tmp_path, capsys):
    settings["variants"]["wild"] = {"optim.lr": 1e30}
    assert sweep.main([str(write({**settings, "seeds": [0]})), "--out", str(tmp_path)]) == 3
    assert [row["variant"] for row in rows(tmp_path)] == ["joint", "no InfoNCE"]
    assert "not done: wild, seed 0: batch " in capsys.readouterr().err


def test_curves_have_a_row_for_each_save_and_a_picture(settings, write, tmp_path):
    settings = {**settings, "seeds": [2]}
    command = [str(write(settings)), "--out", str(tmp_path), "--keep_last", "1"]
    assert sweep.main(command) == 0  # the same runs, of which the last save stays
    command = [str(write({**settings, "curve": True})), "--out", str(tmp_path), "--labels", str(LABELS)]
    assert sweep.main(command) == 0
    with (tmp_path / "losses_curve.csv").open(newline="", encoding="utf-8") as file:
        curve = list(csv.DictReader(file))
    assert [(row["variant"], row["step"]) for row in curve] == [(v, s) for v in settings["variants"] for s in "36"]
    last = {row["variant"]: (row["plain"], row["rich"]) for row in rows(tmp_path)}
    assert {row["variant"]: (row["plain"], row["rich"]) for row in curve if row["step"] == "6"} == last
    folder = tmp_path / "runs" / rows(tmp_path)[0]["run"]
    first, second = (encoder_at(state, folder).network.patch_embed.weight for state in states(folder))
    assert not torch.equal(first, second)
    assert torch.equal(second, load_model(folder).network.patch_embed.weight)
    assert (tmp_path / "losses_curve.png").stat().st_size > 5000


def test_scores_that_are_not_ours_a_curve_without_states_and_sets_of_one_name_are_one_line(
    settings, write, tmp_path, capsys
):
    command = [str(write({**settings, "seeds": [0], "curve": True})), "--out", str(tmp_path), "--labels", str(LABELS)]
    assert run(sweep.main, [*command, str(LABELS)]) == 1
    assert "two sets are called 'data'" in capsys.readouterr().err
    assert run(sweep.main, command) == 0
    folder = tmp_path / "runs" / rows(tmp_path)[0]["run"]
    (folder / "probes.json").write_text('{"data": 50.0}')
    capsys.readouterr()
    assert run(sweep.main, command) == 1
    assert f"{folder / 'probes.json'}: not the scores of a run" in capsys.readouterr().err
    (folder / "probes.json").unlink()
    shutil.rmtree(folder / "states")
    assert run(sweep.main, command) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "error: " in error


def test_groups_of_sets_are_averaged_apart(settings, write, tmp_path):
    path = write({**settings, "groups": {"speech": ["a", "b"], "sound": ["c"]}})
    table = [
        {"variant": "joint", "seed": 0, "steps": 6, "step_ms": 1.0, "reconstruction": 0.5, "classification": 2.0}
        | {"plain": 40.0, "plain_a": 10.0, "plain_b": 30.0, "plain_c": 80.0}
    ]
    assert "| 40.0 | 20.0 | 80.0 |" in sweep_table.format_table(read_sweep(path), table)
    command = [str(path), "--out", str(tmp_path), "--labels", str(LABELS)]
    assert run(sweep.main, command) == 1


def test_the_folder_of_a_run_is_named_by_what_decides_its_end(recipe):
    same = dataclasses.replace(recipe, out="elsewhere", log_every=1)
    assert digest(same) == digest(recipe)
    for change in ({"seed": 1}, {"precision": "bf16"}, {"optim": dataclasses.replace(recipe.optim, steps=7)}):
        assert digest(dataclasses.replace(recipe, **change)) != digest(recipe)


def test_the_interval_of_a_difference_is_student_s_with_pooled_deviation():
    from scipy.stats import ttest_ind

    first, second = np.array([60.0, 61.5, 60.4]), np.array([62.0, 63.1, 64.9])
    interval = ttest_ind(second, first).confidence_interval(0.95)
    half = sweep_table.half_interval([first, second], 3, 3)
    assert half == pytest.approx((interval.high - interval.low) / 2)
    assert sweep_table.half_interval([[1.0], [2.0]], 1, 1) is None


@pytest.mark.parametrize(
    ("values", "verdict"), [([70.0, 70.2], "higher"), ([50.0, 50.2], "lower"), ([60.0, 60.9], "not decided")]
)
def test_the_verdict_says_no_more_than_the_spread_allows(settings, write, values, verdict):
    pairs = zip(["joint", "joint", "no InfoNCE", "no InfoNCE"], [60.0, 60.5, *values], strict=True)
    empty = {"steps": 6, "step_ms": 1.0, "reconstruction": "", "classification": ""}
    table = [{"variant": variant, **empty, "plain": score} for variant, score in pairs]
    lines = sweep_table.format_table(read_sweep(write(settings)), table).splitlines()
    assert lines[-1].endswith(f": {verdict} |")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'; it may have base, settings, variants, seeds, groups, curve"),
        ({"variants": None}, "variants must be a mapping, got None"),
        ({"variants": {}}, "variants is empty"),
        ({"seeds": ["a"]}, "seeds must be a list of whole numbers, got ['a']"),
        ({"curve": "yes, please"}, "curve must be true or false"),
        ({"groups": {"speech": "drums"}}, "groups.speech must be a list of labelled sets"),
        ({"variants": {"a": {"masking.ration": 0.5}}}, "losses, variant 'a': unknown option --masking.ration"),
        ({"variants": {"a": {"masking.ratio": 1.5}}}, "ratio must lie between 0 and 1, got 1.5"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_wrong_sweep_is_one_line(settings, write, tmp_path, capsys, change, message):
    assert run(sweep.main, [str(write({**settings, **change})), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_sweep_and_a_corpus_that_is_not_there_are_one_line(settings, write, tmp_path, capsys):
    assert run(sweep.main, ["nowhere.yaml"]) == 1
    assert "nowhere.yaml: no such file" in capsys.readouterr().err
    command = [str(write(settings)), "--out", str(tmp_path), "--data.corpus", "nowhere", "--data.packed", "nowhere"]
    assert run(sweep.main, command) == 1
    assert "Traceback" not in capsys.readouterr().err

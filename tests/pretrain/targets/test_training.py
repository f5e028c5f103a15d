"""Runs whose losses have targets: what they compute, and that they resume, share and accumulate exactly."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small import small_config

from maeast_upstream.cli import run
from pretrain.cli import main
from pretrain.config import LossConfig
from pretrain.data.batches import BatchSharding, CropBatches
from pretrain.data.clips import packed_names
from pretrain.data.corpus import open_training
from pretrain.recipe import Recipe
from pretrain.sweep.plan import digest
from pretrain.targets import open_targets
from pretrain.trainer import Trainer
from pretrain.training.build import build_objective
from pretrain.training.run_folder import states
from pretrain.training.step import Updater

TARGETS = {"teacher": 2.0, "supervised": 0.5, "label_columns": "sound:2, tags", "label_smoothing": 0.1}


def sound_of(name):
    return Path(name).name.partition("-")[0]


def source_of(recipe):
    return open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())


@pytest.fixture
def taught(recipe, tmp_path):
    """A recipe with two tables, one of which has vectors of parts of half of the clips."""
    names = packed_names(source_of(recipe).clips)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "all.npz", path=names, vector=random.standard_normal((len(names), 8)))
    half = np.repeat(names[::2], 3)
    start = np.tile([0.0, 0.2, 0.4], len(half) // 3)
    vectors = random.standard_normal((len(half), 5))
    np.savez(tmp_path / "half.npz", path=half, vector=vectors, start=start, end=start + 0.2)
    rows = [f"{name},{sound_of(name)},{'|'.join('xyz'[: i % 4])}" for i, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,sound,tags", *rows]))
    return dataclasses.replace(
        recipe,
        labels=f"{tmp_path}/labels.csv",
        teacher=f"{tmp_path}/all.npz, {tmp_path}/half.npz",
        losses=LossConfig(clip=1.0, **TARGETS),
        tensorboard=False,
    )


def log_of(run_folder):
    return [json.loads(line) for line in (Path(run_folder) / "metrics.jsonl").read_text().splitlines()]


def state_of(out):
    return torch.load(states(Path(out))[-1], weights_only=True)


def test_the_loss_is_that_of_a_plain_loop_over_rows_and_tables(taught):
    source = source_of(taught)
    targets = open_targets(taught, source)
    torch.manual_seed(0)
    objective = build_objective(taught, source_normalisation(), targets.sizes).eval()
    assert [head.out_features for head in objective.teacher_heads] == [8, 5]
    batch = source[0]
    patches = objective.patches(batch.waveforms)
    visible, masked = torch.arange(12).expand(len(patches), -1), torch.arange(12, 24).expand(len(patches), -1)
    found = targets(batch, torch.device("cpu"))
    losses = objective(patches, visible, masked, None, found)
    pooled = objective.network.encode_visible(patches, visible).mean(dim=1)
    means = []
    for number, head in enumerate(objective.teacher_heads):
        vectors, distances = found[f"teacher{number}"], []
        for row in range(len(pooled)):
            if vectors[row].isfinite().all():
                distances.append(1 - torch.cosine_similarity(head(pooled[row]), vectors[row], dim=0))
        means.append(torch.stack(distances).mean())
    torch.testing.assert_close(losses["teacher"], torch.stack(means).mean().detach())
    parts = sum(getattr(taught.losses, name) * losses[name] for name in losses if name != "loss")
    torch.testing.assert_close(losses["loss"].detach(), parts)
    assert not {"teacher", "supervised"} & set(objective(patches, visible, masked))


def test_the_loss_of_labels_is_that_of_a_plain_loop_over_rows_and_columns(taught):
    source = source_of(taught)
    targets = open_targets(taught, source)
    torch.manual_seed(0)
    objective = build_objective(taught, source_normalisation(), targets.sizes).eval()
    names = packed_names(source.clips)
    sounds = sorted({sound_of(name) for name in names})
    batch = source[0]
    patches = objective.patches(batch.waveforms)
    visible, masked = torch.arange(12).expand(len(patches), -1), torch.arange(12, 24).expand(len(patches), -1)
    losses = objective(patches, visible, masked, None, targets(batch, torch.device("cpu")))
    pooled = objective.network.encode_visible(patches, visible).mean(dim=1)
    of_sounds, of_tags = [], []
    for row, vector in enumerate(pooled):
        clip = batch.clips[row % len(batch.clips)]
        sound = torch.tensor(sounds.index(sound_of(names[clip])))
        logits = objective.label_heads[0](vector)
        of_sounds.append(torch.nn.functional.cross_entropy(logits, sound, label_smoothing=0.1))
        if clip % 4:
            wanted = torch.tensor([0.95 if tag in "xyz"[: clip % 4] else 0.05 for tag in "xyz"])
            chances = objective.label_heads[1](vector).sigmoid()
            of_tags.append(-(wanted * chances.log() + (1 - wanted) * (1 - chances).log()).mean())
    expected = 2 * torch.stack(of_sounds).mean() + torch.stack(of_tags).mean()
    torch.testing.assert_close(losses["supervised"], expected.detach())


def source_normalisation():
    from maeast_upstream.config import Normalisation

    return Normalisation(mean=-5.0, std=4.0)


def test_a_weight_of_0_opens_no_table_and_changes_nothing(taught, caplog):
    off = dataclasses.replace(taught, losses=LossConfig(clip=1.0), teacher="no such table", labels="none either")
    without = dataclasses.replace(off, teacher=None, labels=None)
    targets = open_targets(off, source_of(off))
    assert "losses.supervised is 0: nothing is learned from none either" in caplog.text
    assert "losses.teacher is 0: nothing is learned from no such table" in caplog.text
    assert targets(source_of(off)[0], torch.device("cpu")) is None
    torch.manual_seed(0)
    one = build_objective(off, source_normalisation(), targets.sizes).state_dict()
    torch.manual_seed(0)
    other = build_objective(without, source_normalisation()).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_folder_of_a_sweep_s_run_without_targets_keeps_its_name():
    assert digest(Recipe()) == "44136fa355b3"


@pytest.mark.slow
def test_a_stopped_run_with_teachers_resumes_as_if_it_never_stopped(taught, tmp_path):
    taught = dataclasses.replace(taught, teacher=f"{taught.teacher},bundled")
    Trainer(taught).train()
    assert all(0 < line["teacher"] < 2 for line in log_of(taught.out))
    other = dataclasses.replace(taught, out=str(tmp_path / "other"))
    Trainer(dataclasses.replace(other, max_minutes=1e-9)).train()
    assert state_of(other.out)["step"] == 1
    Trainer(other).train()
    one, two = state_of(taught.out), state_of(other.out)
    assert {"teacher_heads.2.weight", "label_heads.1.weight"} <= set(one["objective"])
    assert list(json.loads((Path(other.out) / "labels.json").read_text())["columns"]) == ["sound", "tags"]
    assert all(torch.equal(value, two["objective"][name]) for name, value in one["objective"].items())


@pytest.mark.slow
def test_an_accumulated_batch_is_the_same_batch_although_vectors_are_missing(taught, monkeypatch):
    model = small_config(dropout=0.0, layerdrop=0.0, attention_dropout=0.0, input_dropout=0.0)
    taught = dataclasses.replace(
        taught, model=model, data=dataclasses.replace(taught.data, batch_clips=8), losses=LossConfig(**TARGETS)
    )
    logged = []
    monkeypatch.setattr(Updater, "update", noting(Updater.update, logged))
    for steps in (1, 4):
        optim = dataclasses.replace(taught.optim, accumulation_steps=steps)
        Trainer(dataclasses.replace(taught, out=f"{taught.out}{steps}", optim=optim)).train()
    whole, parts = logged[:12], logged[12:]
    assert parts == pytest.approx(whole, abs=2e-5)


def noting(update, logged):
    def noted(updater, batches, step):
        losses = update(updater, batches, step)
        logged.extend([float(losses["teacher"]), float(losses["supervised"])])
        return losses

    return noted


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(taught, launch, tmp_path):
    model = small_config(dropout=0.0, layerdrop=0.0, attention_dropout=0.0, input_dropout=0.0)
    data = dataclasses.replace(taught.data, batch_clips=8)
    taught = dataclasses.replace(taught, model=model, data=data, losses=LossConfig(**TARGETS), log_every=1)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(taught)))
    logs = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
        out = str(tmp_path / str(processes))
        status, errors = launch(
            [sys.executable, *launcher, "-m", "pretrain", "--config", str(path), "--out", out]
        ).result()
        assert status == 0, errors
        logs.append([[line["teacher"], line["supervised"], line["loss"]] for line in log_of(out)])
    np.testing.assert_allclose(logs[1], logs[0], atol=1e-4)


@pytest.mark.slow
def test_a_run_on_files_refuses_a_table_and_takes_a_checkpoint(taught):
    data = dataclasses.replace(taught.data, pack=False, packed=None)
    files = dataclasses.replace(taught, data=data)
    with pytest.raises(ValueError, match=r"labels.csv need a packed corpus: give data.pack true"):
        Trainer(files)
    files = dataclasses.replace(files, losses=LossConfig(teacher=1.0))
    with pytest.raises(ValueError, match=r"a table of vectors needs a packed corpus: give data.pack true"):
        Trainer(files)
    assert isinstance(source_of(files), CropBatches)
    Trainer(dataclasses.replace(files, teacher="bundled")).train()


NO_OTHER_LOSS = [f"--losses.{name}=0" for name in ("reconstruction", "classification", "clip")]
REFUSED = {
    "no teacher": (["--losses.teacher", "1"], "losses.teacher 1.0 needs a teacher"),
    "only commas": (["--losses.teacher", "1", "--teacher", " , "], "losses.teacher 1.0 needs a teacher"),
    "negative": (["--losses.teacher", "-1"], "loss weights must not be negative"),
    "SSAST": (
        ["--losses.teacher", "1", "--losses.clip", "0", "--objective", "ssast", "--model.decoder_depth", "0"],
        "objective ssast and losses.teacher 1.0 do not go together",
    ),
    "no such table": (["--losses.teacher", "1", "--teacher", "no.npz"], "no.npz: no such file or folder"),
    "neither": (["--losses.teacher", "1", "--teacher", "no/such/thing"], "neither a table of vectors"),
    "no labels": (["--losses.supervised", "1", "--losses.label_columns", "kind"], "give --labels a table of them"),
    "no columns": (["--losses.supervised", "1", "--labels", "x"], "supervised 1.0 needs label_columns"),
    "no weight": (["--losses.supervised", "1", "--losses.label_columns", "a:b"], "'b' is no number"),
    "weight 0": (["--losses.supervised", "1", "--losses.label_columns", "a:0"], "expected columns and weights"),
    "NaN": (["--losses.supervised", "1", "--losses.label_columns", "a:nan"], "expected columns and weights"),
    "twice": (["--losses.supervised", "1", "--losses.label_columns", "a,a"], "expected columns and weights"),
    "twice in other letters": (["--losses.supervised", "1", "--losses.label_columns", "a,A"], "expected columns"),
    "smoothing": (["--losses.label_smoothing", "1"], "label_smoothing must lie in [0, 1)"),
    "no such labels": (
        ["--losses.supervised", "1", "--losses.label_columns", "a", "--labels", "no.csv"],
        "labels no.csv: no such file",
    ),
    "not validated": (
        ["--losses.teacher", "1", "--teacher", "x", "--data.validation", "x", *NO_OTHER_LOSS],
        "data.validation needs losses.reconstruction, classification, clip or latent",
    ),
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED)
def test_a_wrong_teacher_or_label_is_one_line_and_leaves_no_folder(packed, tmp_path, capsys, options):
    arguments = ["--config", "debug_cpu", "--data.corpus", str(packed), "--out", str(tmp_path / "run"), *options[0]]
    assert run(main, arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert options[1] in error
    assert not (tmp_path / "run").exists()

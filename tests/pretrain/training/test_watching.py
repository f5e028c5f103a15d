"""What a run shows and looks at: metrics, TensorBoard, validation, probe, averages; and what stops it."""

import csv
import dataclasses
import errno
import json
import sys
from pathlib import Path

import pytest
import torch

from maeast_upstream import load_model
from maeast_upstream.cli import run
from pretrain import cli
from pretrain.config import LossConfig
from pretrain.masking.rules import Grid, removal_frequency
from pretrain.trainer import Trainer
from pretrain.training import run_folder
from pretrain.training.build import build_sampler
from pretrain.training.pictures import frequency_picture
from pretrain.training.run_folder import states
from pretrain.training.trackers import Trackers

AUDIO = Path(__file__).parents[2] / "data" / "audio"


def metrics(recipe):
    return [json.loads(line) for line in (Path(recipe.out) / "metrics.jsonl").read_text().splitlines()]


def test_the_best_validation_keeps_its_state_and_encoder(recipe, packed):
    data = dataclasses.replace(recipe.data, validation=str(packed))
    optim = dataclasses.replace(recipe.optim, lr=1e-2)
    recipe = dataclasses.replace(recipe, data=data, optim=optim, validate_every=1, validate_batches=2, keep_last=1)
    Trainer(recipe).train()
    valid = {line["step"]: line["valid_loss"] for line in metrics(recipe) if "valid_loss" in line}
    assert list(valid) == [1, 2, 3, 4, 5, 6]
    best = min(valid, key=valid.get)
    folder = Path(recipe.out)
    assert torch.load(folder / "states" / "best.pt", weights_only=True)["step"] == best
    assert load_model(folder).config.provenance.steps == best, "best goes before last"
    assert [int(path.stem) for path in states(folder)] == [6]


def test_validation_is_the_same_each_time_and_leaves_the_run_as_it_is(recipe, packed):
    Trainer(recipe).train()
    data = dataclasses.replace(recipe.data, validation=str(packed))
    other = dataclasses.replace(recipe, out=recipe.out + "2", data=data, validate_every=2, validate_batches=2)
    Trainer(other).train()
    one, two = (torch.load(states(Path(r.out))[-1], weights_only=True)["objective"] for r in (recipe, other))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_the_average_is_what_load_model_takes(recipe):
    optim = dataclasses.replace(recipe.optim, ema_decay=0.5)
    recipe = dataclasses.replace(recipe, optim=optim)
    trainer = Trainer(recipe)
    name = "patch_embed.weight"
    expected = trainer.objective.network.state_dict()[name].clone()
    for batch in range(6):
        trainer._update([trainer.source[batch]])
        trainer.step += 1
        expected.lerp_(trainer.objective.network.state_dict()[name], 1 - min(0.5, (1 + batch) / (10 + batch)))
    trainer.save()
    torch.testing.assert_close(load_model(recipe.out).network.state_dict()[name], expected)
    assert not torch.equal(expected, trainer.objective.network.state_dict()[name])
    trainer.close()


def test_the_probe_scores_the_encoder_on_valid_while_it_trains(recipe, tmp_path):
    rows = list(csv.DictReader((AUDIO.parent / "labels.csv").open()))[:60]
    clips = {row["label"]: [] for row in rows}
    for row in rows:
        clips[row["label"]].append(row["path"])
    kinds = [label for label, paths in clips.items() if len(paths) >= 6][:2]
    lines = ["path,label,split"]
    for kind in kinds:
        for number, path in enumerate(clips[kind][:6]):
            lines.append(f"{AUDIO.parent / path},{kind},{('train', 'train', 'train', 'valid', 'test', 'test')[number]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    recipe = dataclasses.replace(recipe, probe=str(tmp_path / "labels.csv"), probe_every=3)
    Trainer(recipe).train()
    probes = [(line["step"], line["probe_valid"]) for line in metrics(recipe) if "probe_valid" in line]
    assert [step for step, _ in probes] == [3, 6]
    assert all(0 <= accuracy <= 100 for _, accuracy in probes)
    assert "test" not in (Path(recipe.out) / "metrics.jsonl").read_text()


def test_tensorboard_gets_curves_and_pictures(recipe):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(recipe).train()
    events = EventAccumulator(str(Path(recipe.out) / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "reconstruction", "clip", "lr", "grad_norm", "crops_per_second", "share_of_peak"} < set(
        tags["scalars"]
    )
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    assert set(tags["images"]) == {"reconstruction", "removal frequency"}
    picture = events.Images("reconstruction")[0]
    assert (picture.height, picture.width) == (3 * 128 + 8, 48)


def test_without_tensorboard_the_extra_is_named_or_it_is_left_out(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"pip install .*\[pretrain\]', or give --tensorboard false"):
        Trainer(recipe).train()
    assert Trainer(dataclasses.replace(recipe, tensorboard=False)).train()
    assert not (Path(recipe.out) / "tensorboard").exists()


def test_the_removal_frequency_is_the_mask_ratio_and_a_picture(recipe):
    sampler, grid = build_sampler(recipe), Grid(2048, 12, 8)
    frequency = removal_frequency(sampler.scores, grid, 0.75, torch.Generator().manual_seed(0))
    assert frequency.shape == (12, 8)
    assert float(frequency.mean()) == pytest.approx(0.75, abs=1e-6)
    picture = frequency_picture(sampler, 96, torch.Generator().manual_seed(0))
    assert picture.shape == (64, 96, 3)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_batch_and_clips(recipe, capsys):
    recipe = dataclasses.replace(recipe, save_every=2)
    trainer = Trainer(recipe)
    batches = trainer._batches

    def poisoned():
        for number, parts in enumerate(batches()):
            if number == 2:
                trainer.before = [p.clone() for p in trainer.objective.parameters()]
                parts[0].waveforms[1] = torch.inf
            yield parts

    trainer._batches = poisoned
    with pytest.raises(
        ValueError, match=r"batch 3: the loss or its gradient is NaN or infinite on .*\.opus"
    ) as stopped:
        trainer.train()
    clips = trainer.source[2].clips
    assert all(trainer.source.clips.name(clip) in str(stopped.value) for clip in clips)
    assert all(torch.equal(a, b) for a, b in zip(trainer.before, trainer.objective.parameters(), strict=True))
    assert [int(path.stem) for path in states(Path(recipe.out))] == [2]
    assert load_model(recipe.out).config.provenance.steps == 2


def test_fp16_without_a_gpu_is_refused(recipe, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="precision fp16 needs a GPU, and none is used here"):
        Trainer(dataclasses.replace(recipe, precision="fp16", device=None))


def test_a_checkpoint_of_another_shape_is_one_line(tmp_path, capsys):
    options = [
        "--config",
        "mae_ast_base_patch",
        "--out",
        str(tmp_path / "run"),
        "--init",
        str(Path(cli.__file__).parents[1] / "maeast_upstream/assets/tiny"),
    ]
    assert run(cli.main, [*options, "--data.corpus", str(AUDIO)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "its model.embed_dim is 192, the recipe's 768" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.s3prl
def test_training_may_go_on_from_a_published_checkpoint(recipe, write_published):
    path = write_published()
    config = load_model(path).config
    assert config.model.embed_dim == 48
    recipe = dataclasses.replace(recipe, init=str(path), model=config.model, losses=LossConfig())
    trainer = Trainer(recipe)
    assert trainer.objective.normalise.statistics == config.normalisation
    assert trainer.train()
    assert load_model(recipe.out).config.provenance.parents == [str(path)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_step_on_a_gpu_never_waits_for_it(recipe, precision):
    optim = dataclasses.replace(recipe.optim, ema_decay=0.9, accumulation_steps=2)
    trainer = Trainer(dataclasses.replace(recipe, device="cuda", precision=precision, optim=optim))
    parts = [trainer.source[0], trainer.source[1]]
    parts = [part._replace(waveforms=part.waveforms.pin_memory()) for part in parts]
    for _ in range(2):
        trainer._update(parts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        values = trainer._update(parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.updater.check()
    assert values["loss"].isfinite()


@pytest.mark.gpu
def test_on_a_gpu_nothing_is_updated_after_a_loss_that_is_not_finite(recipe):
    trainer = Trainer(dataclasses.replace(recipe, device="cuda", precision="fp32"))
    trainer._update([trainer.source[0]])
    trainer.step += 1
    before = [p.clone() for p in trainer.objective.parameters()]
    bad = trainer.source[1]
    trainer._update([bad._replace(waveforms=torch.full_like(bad.waveforms, torch.inf))])
    trainer.step += 1
    trainer._update([trainer.source[2]])
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.objective.parameters(), strict=True))
    trainer.step += 1
    with pytest.raises(Exception, match=r"\(1, "):
        trainer.save()
    assert not states(Path(trainer.recipe.out))


@pytest.mark.parametrize("method", ["log", "picture", "close", "__init__"])
def test_a_full_disk_under_a_tracker_is_one_line_that_names_the_run(recipe, monkeypatch, method):
    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trackers, method, full)
    with pytest.raises(
        OSError, match=rf"^{recipe.out}: batch \d could not be saved \(No space left on device\); .*make room"
    ):
        Trainer(recipe).train()


def test_a_full_disk_under_the_recipe_is_one_line_that_names_the_run(recipe, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder, "write_recipe", full)
    with pytest.raises(
        OSError, match=rf"^{recipe.out}: batch 0 could not be saved .*there is no earlier save: make room"
    ):
        Trainer(recipe).train()

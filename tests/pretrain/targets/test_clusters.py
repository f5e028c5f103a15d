"""Clusters of an earlier model's tokens: what the command writes, and what the rows of a batch get."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_config

from maeast_upstream.cli import run
from maeast_upstream.encoder import load_model
from maeast_upstream.frontend import SAMPLE_RATE
from pretrain.config import LossConfig
from pretrain.data.batches import BatchSharding
from pretrain.data.clips import ChosenClips, open_packed_clips
from pretrain.data.corpus import open_training
from pretrain.targets import clustering, open_targets
from pretrain.targets.__main__ import main
from pretrain.targets.clusters import ClusterTargets, read_clusters
from pretrain.trainer import Trainer
from pretrain.training.run_folder import states

CROP = SAMPLE_RATE


@pytest.fixture
def clips(packed):
    return open_packed_clips(packed, check=True)


def plain_clusters(encoder, waveform, centres):
    """(T, M) clusters of a clip and the (T,) centres of its time steps in seconds."""
    encoded = encoder.encode(waveform, layers=2, hop_ms=40.0)
    tokens = encoded.hidden_states[0][0].reshape(-1, 8, 32)
    return torch.cdist(tokens, torch.from_numpy(centres)).argmin(-1).numpy(), encoded.times_ms[0].numpy() / 1000


def waveform(clips, number):
    return torch.from_numpy(clips.read(number, int(clips.lengths[number]), 0.0))


def test_every_token_gets_its_nearest_centre(clips, small_encoder, clusters):
    targets = ClusterTargets(clusters, clips, small_config(), True)
    centres = np.load(clusters / "centres.npy")
    assert centres.shape == (12, 32)
    for number in range(0, len(clips.lengths), 7):
        expected, _ = plain_clusters(small_encoder, waveform(clips, number), centres)
        first = targets.offsets[number]
        found = targets.labels[first : first + targets.steps[number]]
        assert found.shape == expected.shape
        assert (found == expected).mean() > 0.999, "a tie may be decided otherwise"
    assert len(np.unique(targets.labels)) > 6


@pytest.mark.parametrize("short_clips", ["repeat", "join", "pad"])
@pytest.mark.parametrize("tokens", ["patch", "frame"])
def test_tokens_of_crops_get_the_target_whose_centre_is_nearest(clips, small_encoder, clusters, short_clips, tokens):
    """Of crops that begin anywhere, of repeated, joined and padded short clips, and of rows without a clip."""
    model = small_config(tokens)
    targets = ClusterTargets(clusters, clips, model, short_clips == "repeat")
    centres = np.load(clusters / "centres.npy")
    random = np.random.default_rng(0)
    order = np.argsort(clips.lengths)
    numbers = np.array([*order[:6], *order[-6:], -1])
    limits = clips.lengths[numbers]
    long = np.maximum(1, limits - CROP + 1)
    starts = (random.random(13) * np.where(limits < CROP, limits if short_clips == "repeat" else 1, long)).astype(int)
    found = targets.look_up(numbers, starts, CROP)
    steps, span = (6, 0.175) if tokens == "patch" else (49, 0.035)
    assert found.shape == (13, steps * model.mel_patches)
    found = found.reshape(13, steps, model.mel_patches)
    for row, number in enumerate(numbers[:-1]):
        expected, times = plain_clusters(small_encoder, waveform(clips, number), centres)
        length = clips.lengths[number] / SAMPLE_RATE
        for step in range(steps):
            centre = starts[row] / SAMPLE_RATE + step * (span - 0.015) + span / 2
            if short_clips == "repeat":
                centre %= length
            if centre >= length:
                assert (found[row, step] == -1).all()
                continue
            distance = np.abs(times - centre)
            nearest = distance <= distance.min() + 1e-9  # two if they are as near
            options = expected[nearest] if tokens == "patch" else expected[nearest][:, 4:5]
            assert any(np.array_equal(found[row, step], option) for option in options)
    assert (found[-1] == -1).all()
    assert (found == -1).any(axis=(1, 2))[:6].any() == (short_clips != "repeat")


def test_batches_get_clusters_view_by_view_and_by_the_numbers_of_chosen_clips(recipe, clusters, packed):
    data = dataclasses.replace(recipe.data, min_seconds=0.4)
    recipe = dataclasses.replace(recipe, data=data, clusters=str(clusters), losses=LossConfig(clip=1.0, cluster=1.0))
    source = open_training(recipe.data, recipe.model, 2, 0, BatchSharding())
    assert isinstance(source.clips, ChosenClips)
    targets = open_targets(recipe, source)
    assert targets.sizes.clusters == 12
    batch = source[0]
    found = targets(batch, torch.device("cpu"), passes=2)["clusters"]
    assert found.shape == (2 * 8, 3 * 8)
    assert torch.equal(found[:8], found[8:])
    whole = ClusterTargets(clusters, open_packed_clips(packed, check=True), recipe.model, True)
    numbers = source.clips.chosen[np.tile(batch.clips, 2)]
    expected = whole.look_up(numbers, batch.starts.numpy(), batch.waveforms.shape[1])
    assert torch.equal(found[:8], torch.from_numpy(expected))
    assert len({tuple(row) for row in found[:8].tolist()}) > 4


def with_clusters(recipe, folder, **losses):
    return dataclasses.replace(recipe, clusters=str(folder), losses=LossConfig(**{"cluster": 1.0, **losses}))


@pytest.mark.slow
@pytest.mark.parametrize("short_clips", ["repeat", "join", "pad"])
def test_a_run_with_clusters_and_all_other_losses_resumes_exactly(recipe, clusters, tmp_path, short_clips):
    recipe = with_clusters(recipe, clusters, clip=1.0, latent=1.0)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, short_clips=short_clips))
    parts = dataclasses.replace(recipe, out=str(tmp_path / "parts"))
    trainers = [Trainer(recipe)]
    trainers[0].train()
    Trainer(dataclasses.replace(parts, max_minutes=1e-9)).train()
    trainers.append(Trainer(parts))
    assert trainers[1].step == 1
    trainers[1].train()
    one, other = (torch.load(states(trainer.run)[-1], weights_only=True)["objective"] for trainer in trainers)
    assert one["cluster_head.vectors"].shape == (12, 256)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (trainers[1].run / "clusters.json").read_bytes() == (clusters / "clusters.json").read_bytes()
    line = json.loads((trainers[0].run / "metrics.jsonl").read_text().splitlines()[0])
    assert {"cluster", "latent", "clip", "reconstruction", "classification"} < set(line)


@pytest.mark.slow
def test_two_rounds_by_the_command(recipe, clusters, packed, tmp_path, capsys):
    recipe = with_clusters(recipe, clusters, reconstruction=0.0, classification=0.0)
    Trainer(recipe).train()
    second = tmp_path / "new" / "second"
    options = ["--layer", "3", "--clusters", "5", "--data.corpus", str(packed), "-o", str(second)]
    assert main([recipe.out, *options]) == 0
    assert "layer 3" in capsys.readouterr().out
    content = json.loads((second / "clusters.json").read_text())
    assert (content["layer"], content["clusters"], content["checkpoint"]) == (3, 5, recipe.out)
    again = tmp_path / "again"
    assert main([recipe.out, *options[:-1], str(again)]) == 0
    for name in ("clusters.u16", "centres.npy"):
        assert (second / name).read_bytes() == (again / name).read_bytes(), "the same seed gives the same targets"
    recipe = dataclasses.replace(recipe, out=str(tmp_path / "run2"), clusters=str(second))
    assert Trainer(recipe).train()
    assert load_model(recipe.out).num_layers == 3


def test_targets_of_another_corpus_or_broken_ones_are_refused_in_one_line(recipe, clusters, tmp_path, clips):
    def refused(folder, message, corpus=clips):
        with pytest.raises(ValueError, match=message) as error:
            ClusterTargets(folder, corpus, recipe.model, True)
        assert "\n" not in str(error.value)

    refused(tmp_path, "no clusters.json in it; expected a folder that pretrain.targets wrote")
    changed = open_packed_clips(clips._folder, check=True)
    changed.digest = "0123456789abcdef"
    refused(clusters, "made for another corpus .* 0123456789abcdef", changed)
    broken = tmp_path / "broken"
    shutil.copytree(clusters, broken)
    labels = broken / "clusters.u16"
    labels.write_bytes(labels.read_bytes()[:-2])
    refused(broken, "bytes, expected .* make the targets again")
    values = np.fromfile(clusters / "clusters.u16", np.uint16)
    values[3] = 12
    values.tofile(labels)
    refused(broken, "cluster 12 of 12")
    whole = json.loads((clusters / "clusters.json").read_text())
    for record in ("{", "[]", '{"clusters": 3}', json.dumps({**whole, "hop": 0})):
        (broken / "clusters.json").write_text(record)
        refused(broken, "not what pretrain.targets writes")


def test_a_run_does_not_continue_with_other_clusters(recipe, clusters, packed):
    recipe = with_clusters(recipe, clusters)
    source = open_training(recipe.data, recipe.model, 1, 0, BatchSharding())
    Path(recipe.out).mkdir()
    record = read_clusters(clusters)
    dataclasses.replace(record, checkpoint="another name").write(Path(recipe.out) / "clusters.json")
    assert open_targets(recipe, source).sizes.clusters == 12
    dataclasses.replace(record, layer=1).write(Path(recipe.out) / "clusters.json")
    with pytest.raises(ValueError, match="was begun with other clusters than those in"):
        open_targets(recipe, source)


def test_files_that_are_not_packed_have_no_clusters(recipe, clusters):
    data = dataclasses.replace(recipe.data, pack=False, packed=None)
    source = open_training(data, recipe.model, 1, 0, BatchSharding())
    recipe = with_clusters(dataclasses.replace(recipe, data=data), clusters)
    with pytest.raises(ValueError, match="clusters belong to the clips of a packed corpus: give data.pack true"):
        open_targets(recipe, source)


def test_an_error_leaves_no_targets(clips, small_encoder, tmp_path, monkeypatch):
    def fails(*args):
        raise OSError("no space")

    monkeypatch.setattr(clustering.np, "save", fails)
    with pytest.raises(OSError, match="no space"):
        clustering.write_clusters(tmp_path / "out", small_encoder, "a model", clips, 1, 3, sample=50, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clusters", "1"], "--clusters must be 2 to 65536, got 1"),
        (["--layer", "13"], "--layer must be 1 to 12, got 13"),
        (["--clusters", "60000", "--sample", "100"], "--clusters 60000: the sample has 100 tokens"),
        (["-o", "."], r"\. exists already; give --force"),
        (["-o", ".", "--force"], r"\.: not a folder of targets, and not replaced"),
    ],
)
def test_wrong_options_are_refused_by_name(packed, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main(["bundled", "--data.corpus", str(packed), "-o", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_one_line_for_a_user_s_mistake(packed, tmp_path, capsys):
    assert run(main, ["nothing-like-it", "--data.corpus", str(packed), "-o", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1

"""Batches with computed sounds."""

import dataclasses
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from maeast_upstream.cli import run
from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig
from pretrain.cli import main
from pretrain.config import OptimConfig
from pretrain.data.batches import BatchSharding, CropBatches, batches
from pretrain.data.clips import NoClips, open_packed_clips
from pretrain.data.corpus import corpus_digest, describe, open_training, open_validation
from pretrain.data.statistics import measurement_digest
from pretrain.recipe import Recipe
from pretrain.sweep.plan import digest
from pretrain.synth.sounds import computed_crop
from pretrain.trainer import Trainer

ROOT = Path(__file__).parents[3]


@pytest.fixture
def clips(packed):
    return open_packed_clips(packed)


@pytest.fixture
def config(recipe):
    return dataclasses.replace(recipe.data, crop_seconds=0.3, batch_clips=24, min_gain_db=-6, max_gain_db=6)


def computed(batch):
    return np.array(batch.clips) == -1


def test_the_share_of_computed_clips_is_exact_and_the_others_are_those_of_a_run_without(clips, config):
    plain = CropBatches(clips, dataclasses.replace(config, mix=False), 2, seed=1)
    mixed = CropBatches(clips, dataclasses.replace(config, mix=False, synth_share=0.3), 2, seed=1)
    places = []
    for step in range(6):
        batch, other = mixed[step], plain[step]
        now = computed(batch)
        assert now.sum() == round(0.3 * 24)
        places.append(tuple(now))
        rows = np.tile(now, 2)
        assert torch.equal(batch.waveforms[~rows], other.waveforms[~rows])
        assert [clip for clip in batch.clips if clip != -1] == list(np.array(other.clips)[~now])
        assert (batch.starts[rows] == 0).all()
        assert torch.equal(batch.starts[~rows], other.starts[~rows])
    assert len(set(places)) == 6


def test_computed_rows_are_crops_of_one_sound_with_the_gains_of_the_recipe(clips, config):
    source = CropBatches(clips, dataclasses.replace(config, mix=False, synth_share=0.5), 2, seed=1)
    batch = source[3]
    gains = source.crops(3)[0].gains
    for clip in np.flatnonzero(computed(batch)):
        for view in range(2):
            expected = computed_crop((1, 3), int(clip), view, 4800) * np.float32(gains[view, clip])
            assert np.array_equal(batch.waveforms[view * 24 + clip].numpy(), expected)


def test_recordings_and_computed_sounds_are_mixed_with_each_other(clips, config):
    plain = CropBatches(clips, dataclasses.replace(config, mix=False, synth_share=0.5), 1, seed=1)[0]
    mixed = CropBatches(clips, dataclasses.replace(config, mix=True, synth_share=0.5), 1, seed=1)[0]
    assert (mixed.waveforms != plain.waveforms).any(dim=1).all()


@pytest.mark.parametrize("only", [False, True])
def test_the_parts_of_a_batch_are_the_same_batch_however_it_is_shared(clips, config, only):
    config = dataclasses.replace(config, mix=True, synth_share=0.3)
    if only:
        clips, config = NoClips(), dataclasses.replace(config, corpus="synth:", packed=None, synth_share=0.0)
    whole = CropBatches(clips, config, 2, seed=1)[7]
    for processes, accumulate in ((2, 1), (1, 3), (2, 2)):
        rows = torch.zeros_like(whole.waveforms).view(2, 24, -1)
        for rank in range(processes):
            own = CropBatches(clips, config, 2, 1, BatchSharding(processes, rank, accumulate))
            for number in range(accumulate):
                part = own[7 * accumulate + number]
                count = 24 // (processes * accumulate)
                rows[:, part.first : part.first + count] = part.waveforms.view(2, count, -1)
        assert torch.equal(rows.view_as(whole.waveforms), whole.waveforms)


def test_workers_give_the_same_computed_batches_also_where_they_do_not_fork(config):
    config = dataclasses.replace(config, corpus="synth:", packed=None)
    source = pickle.loads(pickle.dumps(CropBatches(NoClips(), config, 2, seed=1)))
    for step, batch in enumerate(batches(source, 3, 5, workers=1), start=3):
        assert torch.equal(batch.waveforms, source[step].waveforms)
        assert set(batch.clips) == {-1}


@pytest.mark.parametrize("short", ["join", "pad"])
def test_computed_sounds_fill_their_rows_whatever_is_done_with_short_clips(clips, config, short):
    config = dataclasses.replace(config, short_clips=short, synth_share=0.25, crop_seconds=1.0)
    batch = CropBatches(clips, config, 1, seed=0)[0]
    assert (batch.lengths.numpy()[computed(batch)] == batch.waveforms.shape[1]).all()
    assert computed(batch).sum() == round(0.25 * batch.size)


def test_with_drawn_lengths_computed_crops_have_the_length_of_their_batch(clips, config):
    source = CropBatches(clips, dataclasses.replace(config, synth_share=0.25, max_crop_seconds=1.0), 1, seed=0)
    for step in range(4):
        batch = source[step]
        assert computed(batch).sum() == round(0.25 * batch.size)
        assert batch.waveforms[computed(batch)].abs().amax(1).min() > 0


def test_digests_of_recipes_and_statistics_do_not_change_without_computed_sounds(recipe):
    small = Recipe(optim=OptimConfig(steps=1000, warmup_steps=10, decay_steps=10))
    assert digest(small) == "e42ae389fa6a"
    assert measurement_digest("abc", small.data, FrontendConfig()) == "a60f9d659991b399"
    share = dataclasses.replace(small.data, synth_share=0.3)
    assert measurement_digest("abc", share, FrontendConfig()) != "a60f9d659991b399"
    assert digest(dataclasses.replace(small, data=share)) != "e42ae389fa6a"


def test_the_corpus_of_computed_sounds_needs_no_files(config, tmp_path):
    config = dataclasses.replace(config, corpus="synth:", packed=None, kind_power=0.5, min_seconds=1.0)
    source = open_training(config, ModelConfig(), 2, 0, BatchSharding(), beside=tmp_path)
    assert describe(source, config.corpus) == "computed sounds"
    assert len(corpus_digest(source, config.corpus)) == 16
    assert not list(tmp_path.iterdir())


def test_validation_is_not_mixed_with_computed_sounds_but_may_be_of_them(config, recipe):
    config = dataclasses.replace(config, validation=config.corpus, synth_share=0.5)
    source = open_validation(config, ModelConfig(), 1, 0, BatchSharding())
    assert not computed(source[0]).any()
    source = open_validation(dataclasses.replace(config, validation="synth:"), ModelConfig(), 1, 0, BatchSharding())
    assert computed(source[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("only", [False, True])
def test_a_run_with_computed_sounds_that_is_stopped_ends_the_same(recipe, tmp_path, only):
    change = {"corpus": "synth:", "packed": None} if only else {"synth_share": 0.5}
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **change))
    Trainer(recipe).train()
    other = dataclasses.replace(recipe, out=str(tmp_path / "other"))
    stopped = Trainer(other)
    after, step = stopped._after, lambda: stopped.step

    def fail(*arguments):
        after(*arguments)
        if step() == 4:
            raise KeyboardInterrupt

    stopped._after = fail
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    Trainer(other).train()
    weights = [Path(out) / "last" / "model.safetensors" for out in (recipe.out, other.out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_says_that_the_sound_was_computed(recipe):
    data = dataclasses.replace(recipe.data, corpus="synth:", packed=None)
    trainer = Trainer(dataclasses.replace(recipe, data=data))
    with torch.no_grad():
        for weight in trainer.objective.network.parameters():
            weight.fill_(math.nan)
    with pytest.raises(ValueError, match="NaN or infinite on a computed sound"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.corpus", "synth:bells"], "corpus synth:bells: computed sounds have no name; give synth: alone"),
        (["--data.corpus", "synth:", "--data.synth_share", "0.2"], "drop synth_share 0.2"),
        (["--data.corpus", "synth:", "--data.short_clips", "pad"], "drop short_clips pad"),
        (["--data.corpus", "synth:", "--data.packed", "there"], "drop packed there"),
        (["--data.synth_share", "1.0"], "synth_share must lie in [0, 1), got 1.0"),
        (["--data.synth_share", "-0.1"], "synth_share must lie in [0, 1), got -0.1"),
        (["--data.synth_share", "0.2", "--data.on_gpu", "true"], "give on_gpu false"),
        (["--data.synth_share", "nan"], "synth_share"),
    ],
)
def test_what_computed_sounds_do_not_go_with_is_one_line(tmp_path, capsys, options, message):
    given = ["--config", str(ROOT / "configs" / "debug_cpu.yaml"), "--out", str(tmp_path / "run"), *options]
    assert run(main, given) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


def test_streamed_shards_are_not_mixed_with_computed_sounds(config):
    config = dataclasses.replace(config, packed=None, pack=False, corpus="https://there/{0..3}.tar", synth_share=0.2)
    with pytest.raises(ValueError, match=r"data.synth_share 0.2 and streamed shards .* give data.pack true"):
        open_training(config, ModelConfig(), 1, 0, BatchSharding())

"""Batches by samples, compared with the loop of fairseq."""

import dataclasses
import logging
from itertools import pairwise

import numpy as np
import pytest
import torch

from maeast_upstream import load_model
from maeast_upstream.data.packed import Packed
from pretrain.config import DataConfig
from pretrain.data.batches import BatchSharding, CropBatches, batches
from pretrain.data.clips import PackedClips
from pretrain.data.corpus import open_training
from pretrain.data.sorted_batches import SortedBatches, batch_edges
from pretrain.trainer import Trainer

CONFIG = DataConfig(batch_by="samples", batch_samples=40_000, max_counted_samples=5000, crop_seconds=3600.0)


def plain_batches(counted, max_tokens, multiple):
    """batch_by_size of fairseq, without a limit of sentences."""
    batches, batch = [], []
    for clip, size in enumerate(counted):
        longest = max([size, *(counted[other] for other in batch)])
        if batch and (len(batch) + 1) * longest > max_tokens:
            size = max(multiple * (len(batch) // multiple), len(batch) % multiple)
            batches.append(batch[:size])
            batch = batch[size:]
        batch.append(clip)
    return [*batches, batch]


def lengths_of(clips, seed=0):
    return np.random.default_rng(seed).integers(500, 9000, clips)


def corpus_of(lengths):
    """Clips of constant samples, each its own number."""
    audio = np.repeat(np.arange(len(lengths)), lengths).astype(np.int16)
    return PackedClips(Packed(audio, np.cumsum([0, *lengths[:-1]]), np.array(lengths), np.full(len(lengths), "")))


@pytest.mark.parametrize("clips", [8, 100, 203, 1000])
def test_batches_are_those_of_fairseq_but_for_the_last_few_clips(clips):
    counted = np.sort(lengths_of(clips).clip(max=5000))[::-1]
    edges = batch_edges(counted, 40_000)
    whole = [list(range(first, last)) for first, last in pairwise(edges)]
    theirs = plain_batches(counted.tolist(), 40_000, 8)
    assert whole[:-1] == theirs[: len(whole) - 1]
    left = theirs[len(whole) - 1 :]
    assert [clip for batch in left for clip in batch][: len(whole[-1])] == whole[-1]
    assert clips - edges[-1] < 8


def test_an_epoch_has_every_clip_once_and_each_epoch_another_order():
    lengths = lengths_of(203)
    ours = SortedBatches(lengths, CONFIG, seed=1)
    epochs = [[ours.batch(step + epoch * len(ours)) for step in range(len(ours))] for epoch in range(2)]
    for epoch in epochs:
        assert len(np.unique(np.concatenate([clips for _, clips in epoch]))) == 200
    one, other = ([tuple(clips) for _, clips in epoch] for epoch in epochs)
    assert one != other
    assert set(one) == set(other)
    for samples, clips in epochs[0]:
        assert samples == lengths[clips].min()
        assert len(clips) % 8 == 0
        assert len(clips) * lengths[clips].clip(max=5000).max() <= 40_000


def test_clips_of_one_length_are_in_random_batches():
    one, other = (SortedBatches(np.full(64, 2000), CONFIG, seed) for seed in (0, 1))
    assert sorted(one.batch(0)[1]) != sorted(other.batch(0)[1])


def test_the_published_numbers_give_32_and_48_clips():
    counted = np.array([479_232] * 100).clip(max=250_000)
    assert np.diff(batch_edges(counted, 8_388_608)).tolist() == [32, 32, 32]
    assert np.diff(batch_edges(np.full(100, 160_000), 8_388_608)).tolist() == [48, 48]


def test_every_row_is_cut_at_random_to_the_shortest_clip_or_the_longest_crop():
    lengths = lengths_of(100)
    source = CropBatches(corpus_of(lengths), CONFIG, 2, seed=0)
    for step in range(len(source.sorted)):
        batch = source[step]
        shortest = lengths[list(batch.clips)].min()
        assert batch.waveforms.shape == (2 * batch.size, shortest)
        assert (batch.lengths == shortest).all()
        assert torch.equal((batch.waveforms[: batch.size, 0] * 32_768).long(), torch.tensor(batch.clips))
        assert (batch.starts <= torch.tensor(lengths[list(batch.clips)] - shortest).repeat(2)).all()
    assert batch.starts.unique().numel() > 1
    short = CropBatches(corpus_of(lengths), dataclasses.replace(CONFIG, crop_seconds=0.2), 1, seed=0)
    assert max(short[step].waveforms.shape[1] for step in range(len(short.sorted))) == 3200


@pytest.mark.parametrize(("processes", "steps"), [(2, 1), (1, 2), (2, 2)])
def test_micro_batches_are_the_whole_batch(processes, steps):
    corpus = corpus_of(lengths_of(100))
    whole = CropBatches(corpus, CONFIG, 1, seed=0)[3]
    shares = [CropBatches(corpus, CONFIG, 1, 0, BatchSharding(processes, rank, steps)) for rank in range(processes)]
    parts = [shares[rank][3 * steps + step] for step in range(steps) for rank in range(processes)]
    assert torch.equal(torch.cat([part.waveforms for part in parts]), whole.waveforms)
    assert sum((part.clips for part in parts), ()) == whole.clips
    assert [part.first for part in parts] == [i * whole.size // len(parts) for i in range(len(parts))]


def test_workers_give_the_same_batches():
    source = CropBatches(corpus_of(lengths_of(100)), CONFIG, 1, seed=0)
    for step, batch in enumerate(batches(source, 2, 5, workers=2), start=2):
        assert torch.equal(batch[0], source[step].waveforms)


def test_the_clips_that_fill_no_batch_are_counted(caplog):
    with caplog.at_level(logging.WARNING, "pretrain"):
        SortedBatches(lengths_of(203), CONFIG, 0)
    assert "the 3 shortest clips fill no batch of 8 and are left out" in caplog.text


def test_too_few_clips_are_one_line():
    with pytest.raises(ValueError, match="at least 8 clips, and there are 7: give more audio, or data.batch_by clips"):
        SortedBatches(lengths_of(7), CONFIG, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short_clips": "pad"}, "short_clips is pad: drop one of them"),
        ({"kind_power": 0.5}, "kind_power is 0.5: drop one of them"),
        ({"max_crop_seconds": 3600.0}, "max_crop_seconds is 3600.0: drop one of them"),
        ({"batch_samples": 39_999}, "batch_samples 39999 must hold 8 clips .* give at least 40000"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **settings)


@pytest.fixture
def by_samples(recipe):
    data = dataclasses.replace(
        recipe.data, batch_by="samples", batch_samples=300_000, max_counted_samples=20_000, crop_seconds=1.0
    )
    return dataclasses.replace(recipe, data=data)


def test_batches_that_cannot_be_shared_are_refused(by_samples):
    with pytest.raises(ValueError, match=r"3 processes x optim.accumulation_steps 1 cannot share: make that 1, 2 or 4"):
        open_training(by_samples.data, by_samples.model, 1, 0, BatchSharding(3))


@pytest.mark.slow
def test_a_run_resumes_with_the_same_bits(by_samples, tmp_path):
    Trainer(by_samples).train()
    parts = dataclasses.replace(by_samples, out=str(tmp_path / "parts"))
    Trainer(dataclasses.replace(parts, max_minutes=1e-9)).train()
    Trainer(parts).train()
    one, other = (load_model(out).network.state_dict() for out in (by_samples.out, parts.out))
    assert all(torch.equal(value, other[name]) for name, value in one.items())

import numpy as np
import pytest
import torch

from maeast_upstream.data.packed import Packed, to_float
from pretrain.config import DataConfig
from pretrain.data.batches import BatchSharding, CropBatches, batches
from pretrain.data.clips import PackedClips
from pretrain.data.crops import draw_partners, mix
from pretrain.data.drawing import clip_weights


def ramp_corpus(lengths, kinds=None):
    """Clips whose samples tell the clip and the place: clip i holds 1000 i, 1000 i + 1, ..."""
    audio = np.concatenate([1000 * i + np.arange(n) % 1000 for i, n in enumerate(lengths)]).astype(np.int16)
    lengths = np.array(lengths)
    offsets = np.concatenate([[0], lengths.cumsum()[:-1]])
    return PackedClips(Packed(audio, offsets, lengths, np.array(kinds or [""] * len(lengths))))


def test_a_batch_is_a_function_of_seed_and_step():
    corpus = ramp_corpus([9000] * 5)
    config = DataConfig(crop_seconds=0.3, batch_clips=4, mix=True, min_gain_db=-6, max_gain_db=6)
    one, other = (
        CropBatches(corpus, config, 2, seed=1),
        CropBatches(corpus, config, 2, seed=1),
    )
    assert torch.equal(one[7].waveforms, other[7].waveforms)
    assert not torch.equal(one[7].waveforms, one[8].waveforms)
    assert not torch.equal(one[7].waveforms, CropBatches(corpus, config, 2, seed=2)[7].waveforms)


def test_workers_give_the_same_batches_in_order():
    crops = CropBatches(ramp_corpus([9000] * 5), DataConfig(crop_seconds=0.3, batch_clips=4), 1, seed=0)
    for step, batch in enumerate(batches(crops, 3, 6, workers=2), start=3):
        assert torch.equal(batch.waveforms, crops[step].waveforms)


def test_crops_stay_inside_their_clip_and_both_views_are_of_the_same_clip():
    crops = CropBatches(ramp_corpus([9000] * 5), DataConfig(crop_seconds=0.3, batch_clips=8), 2, seed=0)
    values = (crops[0].waveforms * 32768).round().long()
    assert values.shape == (16, 4800)
    clips = values // 1000
    assert (clips == clips[:, :1]).all()
    assert torch.equal(clips[:8, 0], clips[8:, 0])
    assert (values.diff(dim=1) % 1000 == 1).all()


def test_crops_differ_and_reach_both_ends_of_a_clip():
    crops = CropBatches(ramp_corpus([4802]), DataConfig(crop_seconds=0.3, batch_clips=64), 1, seed=0)
    starts = (crops[0].waveforms[:, 0] * 32768).round().long()
    assert set(starts.tolist()) == {0, 1, 2}


def test_a_short_clip_goes_round():
    crops = CropBatches(
        ramp_corpus([1000, 1000]),
        DataConfig(crop_seconds=0.3, batch_clips=2),
        1,
        seed=0,
    )
    values = (crops[0].waveforms * 32768).round().long()
    assert (values.diff(dim=1) % 1000 == 1).all()


def test_drawn_crop_lengths_keep_the_seconds_of_a_batch():
    config = DataConfig(crop_seconds=0.25, max_crop_seconds=1.0, batch_clips=16)
    crops = CropBatches(ramp_corpus([30000] * 3), config, 1, seed=0)
    shapes = {tuple(crops[step].waveforms.shape) for step in range(12)}
    assert len(shapes) > 6
    assert len({tuple(crops[step].waveforms.shape) for step in range(80)}) == 16, "a GPU sees few shapes"
    for count, samples in shapes:
        assert 4000 <= samples <= 16000
        assert abs(count * samples - 16 * 4000) <= samples / 2


@pytest.mark.parametrize("short", ["repeat", "join"])
def test_a_short_clip_is_drawn_as_often_as_a_long_one(short):
    config = DataConfig(crop_seconds=1.0, batch_clips=300, short_clips=short)
    crops = CropBatches(ramp_corpus([30000, 500, 7999]), config, 1, seed=0)
    counts = np.bincount(crops[0].clips, minlength=3)
    assert counts.min() > 75, counts
    assert (crops[0].lengths == 16_000).all()


def test_where_all_clips_are_longer_than_half_a_crop_the_draw_is_that_of_version_0_1():
    corpus = ramp_corpus([9000, 2400, 4000, 30_000, 5000])
    crops = CropBatches(corpus, DataConfig(crop_seconds=0.3, batch_clips=12), 1, seed=3)
    assert crops[0].clips == (0, 1, 4, 2, 0, 2, 2, 0, 3, 0, 1, 2)


def test_kinds_are_drawn_in_equal_shares_at_power_0_and_as_they_come_at_1():
    kinds = np.array(["speech"] * 90 + ["music"] * 10)
    for power, share in ((0.0, 0.5), (1.0, 0.9), (0.5, 0.75)):
        weights = clip_weights(kinds, power)
        assert abs(weights[:90].sum() / weights.sum() - share) < 1e-9


def test_the_other_clip_lies_at_the_level_asked_for():
    random = np.random.default_rng(0)
    crop, partner = random.standard_normal((2, 4000)).astype(np.float32)
    for decibel in (-25.0, -8.0):
        added = mix(crop, 0.1 * partner[:1500], 10 ** (decibel / 20)) - crop
        assert abs(10 * np.log10(np.square(added).mean() / np.square(crop).mean()) - decibel) < 0.3


def test_every_crop_has_its_own_gain_within_the_limits():
    corpus = ramp_corpus([5000])
    plain = CropBatches(corpus, DataConfig(crop_seconds=0.3, batch_clips=64), 1, seed=0)[0].waveforms
    config = DataConfig(crop_seconds=0.3, batch_clips=64, min_gain_db=-10.0, max_gain_db=6.0)
    louder = CropBatches(corpus, config, 1, seed=0)[0].waveforms
    gains = 20 * np.log10(louder.abs().amax(1) / plain.abs().amax(1))
    assert gains.min() >= -10.01
    assert gains.max() <= 6.01
    assert gains.std() > 2


def test_silence_stays_silent_when_clips_are_mixed():
    assert np.isfinite(mix(np.zeros(100), np.zeros(50), 0.3)).all()


@pytest.mark.parametrize("count", [2, 3, 9, 31, 64])
def test_a_crop_is_mixed_with_one_of_another_clip_nearby(count):
    for seed in range(10):
        partners = draw_partners(2, count, np.random.default_rng(seed))
        assert partners.shape == (2, count, 2)
        assert set(np.unique(partners[..., 0])) <= {0, 1}
        distance = np.abs(partners[..., 1] - np.arange(count))
        assert distance.min() >= 1
        assert distance.max() < 16


@pytest.mark.parametrize("short", ["repeat", "join"])
def test_the_parts_of_a_batch_are_the_same_batch_however_it_is_shared(short):
    corpus = ramp_corpus([9000, 7000, 3000, 12000, 800])
    config = DataConfig(
        crop_seconds=0.3,
        batch_clips=24,
        mix=True,
        min_gain_db=-6,
        max_gain_db=6,
        short_clips=short,
    )
    whole = CropBatches(corpus, config, 2, seed=1)[7]
    for processes, accumulate in ((2, 1), (1, 3), (2, 2)):
        rows = torch.zeros_like(whole.waveforms).view(2, 24, -1)
        for rank in range(processes):
            own = CropBatches(corpus, config, 2, 1, BatchSharding(processes, rank, accumulate))
            for number in range(accumulate):
                part = own[7 * accumulate + number]
                count = 24 // (processes * accumulate)
                rows[:, part.first : part.first + count] = part.waveforms.view(2, count, -1)
        assert torch.equal(rows.view_as(whole.waveforms), whole.waveforms)


def test_short_clips_are_joined_with_others():
    config = DataConfig(crop_seconds=0.3, batch_clips=8, short_clips="join")
    batch = CropBatches(ramp_corpus([900] * 40), config, 1, seed=0)[0]
    clips = (batch.waveforms * 32768).round().long() // 1000
    assert (batch.lengths == 4800).all()
    assert all(len(set(row.tolist())) >= 4 for row in clips)


def test_padded_clips_share_a_batch_with_clips_of_like_length():
    lengths = [1600 * n for n in range(2, 12)]
    config = DataConfig(crop_seconds=1.0, batch_clips=16, short_clips="pad", length_buckets=4)
    crops = CropBatches(ramp_corpus(lengths), config, 1, seed=0)
    assert len(set(crops.buckets.samples.tolist())) == 4
    shapes = set()
    for step in range(80):
        batch = crops[step]
        rows, samples = batch.waveforms.shape
        shapes.add(samples)
        assert batch.lengths.max() <= samples
        assert batch.lengths.min() > samples / 2
        assert abs(rows * samples - 16 * 16000) <= samples
        for row, length in zip(batch.waveforms, batch.lengths, strict=True):
            assert (row[length:] == 0).all()
            assert (row[:length] != 0).float().mean() > 0.99
    assert shapes == set(crops.buckets.samples.tolist())


@pytest.mark.parametrize("short_clips", ["repeat", "join", "pad"])
@pytest.mark.parametrize("views", [1, 2])
def test_each_row_says_where_in_its_clip_it_begins(short_clips, views):
    lengths = [9000, 300, 4800, 4801, 30_000, 1, 2000]
    corpus = ramp_corpus(lengths)
    audio, offsets = corpus.corpus.audio, corpus.corpus.offsets
    audio[:] = np.random.default_rng(0).integers(-3000, 3000, len(audio))
    config = DataConfig(crop_seconds=0.3, batch_clips=24, short_clips=short_clips)
    source = CropBatches(corpus, config, views, seed=3)
    for step in range(4):
        batch = source[step]
        assert batch.drawn == batch.clips, "one process has the whole batch"
        assert batch.starts.shape == batch.lengths.shape
        for row, start in enumerate(batch.starts.tolist()):
            clip = batch.clips[row % len(batch.clips)]
            shown = np.arange(start, start + int(batch.lengths[row]))
            shown = shown % lengths[clip] if short_clips == "repeat" else shown[shown < lengths[clip]]
            expected = to_float(audio[offsets[clip] + shown])
            assert np.array_equal(batch.waveforms[row, : len(shown)], expected)


def test_parts_of_a_padded_batch_are_the_same_for_processes_and_accumulation_steps():
    corpus = ramp_corpus([9000, 7000, 3000, 12000, 800, 5000, 1700])
    config = DataConfig(
        crop_seconds=0.3, max_crop_seconds=0.6, batch_clips=24, mix=True, short_clips="pad", min_gain_db=-6
    )
    for step in range(4):
        parts = [CropBatches(corpus, config, 2, 1, BatchSharding(1, 0, 4))[4 * step + number] for number in range(4)]
        for number in range(4):
            for processes, rank, item in ((4, number, step), (2, number % 2, 2 * step + number // 2)):
                own = CropBatches(corpus, config, 2, 1, BatchSharding(processes, rank, 4 // processes))[item]
                assert own.first == parts[number].first
                assert own.clips == parts[number].clips
                assert torch.equal(own.waveforms, parts[number].waveforms)
                assert torch.equal(own.lengths, parts[number].lengths)


def test_with_padding_a_short_clip_is_drawn_as_often_as_a_long_one_and_kinds_keep_their_balance():
    lengths = [1600] * 4 + [3200] * 4 + [16_000] * 4
    kinds = ["a"] * 2 + ["b"] * 10
    config = DataConfig(crop_seconds=1.0, batch_clips=8, short_clips="pad", length_buckets=3, kind_power=0.0)
    crops = CropBatches(ramp_corpus(lengths, kinds), config, 1, seed=0)
    counts = np.zeros(12)
    for step in range(6000):
        counts += np.bincount(crops.crops(step)[0].drawn, minlength=12)
    shares = counts / counts.sum()
    assert np.abs(shares[:2] - 0.25).max() < 0.02
    assert np.abs(shares[2:] - 0.05).max() < 0.008


def test_with_padding_and_drawn_lengths_long_clips_are_cropped_and_batches_keep_their_seconds():
    lengths = [1600, 4000, 8000, 12_000, 40_000, 60_000]
    config = DataConfig(crop_seconds=0.5, max_crop_seconds=2.0, batch_clips=32, short_clips="pad", length_buckets=4)
    crops = CropBatches(ramp_corpus(lengths), config, 1, seed=0)
    shapes = set()
    for step in range(150):
        batch = crops[step]
        rows, samples = batch.waveforms.shape
        shapes.add(samples)
        assert abs(rows * samples - 32 * 8000) <= samples
        for clip, length in zip(batch.clips, batch.lengths.tolist(), strict=True):
            assert length == min(lengths[clip], samples)
    assert max(shapes) == 32_000
    assert min(shapes) < 4000
    assert len(shapes) == 16 + len(set(crops.buckets.samples.tolist())) - 1


def test_views_of_a_short_padded_clip_differ_in_gain_and_partner_only():
    corpus = ramp_corpus([1600] * 6)
    config = DataConfig(crop_seconds=1.0, batch_clips=16, short_clips="pad")
    plain = CropBatches(corpus, config, 2, seed=0)[0].waveforms.chunk(2)
    assert torch.equal(*plain)
    config = DataConfig(crop_seconds=1.0, batch_clips=16, short_clips="pad", mix=True, min_gain_db=-6)
    first, second = CropBatches(corpus, config, 2, seed=0)[0].waveforms.chunk(2)
    assert (first != second).any(dim=1).all()


def joined(lengths, kinds, join_with, steps=4):
    config = DataConfig(crop_seconds=0.3, batch_clips=16, short_clips="join", join_with=join_with)
    crops = CropBatches(ramp_corpus(lengths, kinds), config, 2, seed=0)
    for step in range(steps):
        batch = crops[step]
        for row, first in zip((batch.waveforms * 32768).round().long() // 1000, batch.clips * 2, strict=True):
            assert row[0] == first
            yield first, set(row.tolist()) - {first}


def test_clips_are_joined_with_clips_of_their_kind():
    kinds = ["speech", "music", ""] * 9
    others = [(first, other) for first, rest in joined([700] * 27, kinds, "kind") for other in rest]
    assert all(kinds[first] == kinds[other] for first, other in others)
    assert len({other - first for first, other in others}) > 10, "any of them"


def test_clips_are_joined_with_their_neighbours_of_the_same_kind():
    kinds = ["speech"] * 14 + ["music"] * 12 + ["speech"]
    others = [(first, other) for first, rest in joined([700] * 27, kinds, "neighbours") for other in rest]
    assert all(kinds[first] == kinds[other] for first, other in others)
    assert all(abs(first - other) <= 8 for first, other in others if first < 26)
    assert {abs(first - other) for first, other in others if first < 26} == set(range(1, 9))


def test_a_clip_without_neighbours_of_its_kind_is_joined_with_others_of_it():
    kinds = ["speech"] + ["music"] * 10 + ["speech"] * 2
    for first, rest in joined([700] * 13, kinds, "neighbours"):
        if first == 0:
            assert rest <= {11, 12}


def test_what_clips_are_joined_with_by_default_is_what_it_was():
    batch = CropBatches(ramp_corpus([900] * 20), DataConfig(crop_seconds=0.3, batch_clips=3, short_clips="join"), 1, 0)[
        0
    ]
    clips = (batch.waveforms[:, ::900] * 32768).round().long() // 1000
    assert clips.tolist() == [[12, 15, 18, 4, 8, 1], [5, 12, 18, 12, 12, 7], [0, 15, 2, 9, 14, 9]]

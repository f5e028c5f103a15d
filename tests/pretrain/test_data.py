import numpy as np
import pytest
import torch

from maeast_upstream.packed import Packed
from pretrain.config import DataConfig
from pretrain.data import CropBatches, batches, clip_weights, mix


def ramp_corpus(lengths, kinds=None):
    """Clips whose samples tell the clip and the place: clip i holds 1000 i, 1000 i + 1, ..."""
    audio = np.concatenate([1000 * i + np.arange(n) % 1000 for i, n in enumerate(lengths)]).astype(np.int16)
    lengths = np.array(lengths)
    offsets = np.concatenate([[0], lengths.cumsum()[:-1]])
    return Packed(audio, offsets, lengths, np.array(kinds or [""] * len(lengths)))


def test_a_batch_is_a_function_of_seed_and_step():
    corpus = ramp_corpus([9000] * 5)
    config = DataConfig(crop_seconds=0.3, batch_clips=4, mix=True, min_gain_db=-6, max_gain_db=6)
    one, other = CropBatches(corpus, config, 2, seed=1), CropBatches(corpus, config, 2, seed=1)
    assert torch.equal(one[7], other[7])
    assert not torch.equal(one[7], one[8])
    assert not torch.equal(one[7], CropBatches(corpus, config, 2, seed=2)[7])


def test_workers_give_the_same_batches_in_order():
    crops = CropBatches(ramp_corpus([9000] * 5), DataConfig(crop_seconds=0.3, batch_clips=4), 1, seed=0)
    for step, batch in enumerate(batches(crops, 3, 6, workers=2), start=3):
        assert torch.equal(batch, crops[step])


def test_crops_stay_inside_their_clip_and_both_views_are_of_the_same_clip():
    crops = CropBatches(ramp_corpus([9000] * 5), DataConfig(crop_seconds=0.3, batch_clips=8), 2, seed=0)
    values = (crops[0] * 32768).round().long()
    assert values.shape == (16, 4800)
    clips = values // 1000
    assert (clips == clips[:, :1]).all()
    assert torch.equal(clips[:8, 0], clips[8:, 0])
    assert (values.diff(dim=1) % 1000 == 1).all()


def test_crops_differ_and_reach_both_ends_of_a_clip():
    crops = CropBatches(ramp_corpus([4802]), DataConfig(crop_seconds=0.3, batch_clips=64), 1, seed=0)
    starts = (crops[0][:, 0] * 32768).round().long()
    assert set(starts.tolist()) == {0, 1, 2}


def test_a_short_clip_goes_round():
    crops = CropBatches(ramp_corpus([1000, 1000]), DataConfig(crop_seconds=0.3, batch_clips=2), 1, seed=0)
    values = (crops[0] * 32768).round().long()
    assert (values.diff(dim=1) % 1000 == 1).all()


def test_drawn_crop_lengths_keep_the_seconds_of_a_batch():
    config = DataConfig(crop_seconds=0.25, max_crop_seconds=1.0, batch_clips=16)
    crops = CropBatches(ramp_corpus([30000] * 3), config, 1, seed=0)
    shapes = {tuple(crops[step].shape) for step in range(12)}
    assert len(shapes) > 6
    for count, samples in shapes:
        assert 4000 <= samples <= 16000
        assert abs(count * samples - 16 * 4000) <= samples / 2


def test_long_crops_are_not_made_of_short_clips():
    crops = CropBatches(ramp_corpus([30000, 500]), DataConfig(crop_seconds=1.0, batch_clips=32), 1, seed=0)
    assert ((crops[0] * 32768).round() < 1000).all()


def test_kinds_are_drawn_in_equal_shares_at_power_0_and_as_they_come_at_1():
    kinds = np.array(["speech"] * 90 + ["music"] * 10)
    for power, share in ((0.0, 0.5), (1.0, 0.9), (0.5, 0.75)):
        weights = clip_weights(kinds, power)
        assert abs(weights[:90].sum() / weights.sum() - share) < 1e-9


def test_the_other_clip_is_8_to_25_db_below():
    random = np.random.default_rng(0)
    crops = random.standard_normal((50, 4000))
    partners = np.roll(np.arange(50), 1)
    added = mix(crops, partners, random) - crops
    level = 10 * np.log10(np.square(added).mean(1) / np.square(crops).mean(1))
    assert level.min() > -25.1
    assert level.max() < -7.9


def test_every_crop_has_its_own_gain_within_the_limits():
    corpus = ramp_corpus([5000])
    plain = CropBatches(corpus, DataConfig(crop_seconds=0.3, batch_clips=64), 1, seed=0)[0]
    config = DataConfig(crop_seconds=0.3, batch_clips=64, min_gain_db=-10.0, max_gain_db=6.0)
    louder = CropBatches(corpus, config, 1, seed=0)[0]
    gains = 20 * np.log10(louder.abs().amax(1) / plain.abs().amax(1))
    assert gains.min() >= -10.01
    assert gains.max() <= 6.01
    assert gains.std() > 2


def test_silence_stays_silent_when_clips_are_mixed():
    crops = np.zeros((4, 100))
    assert np.isfinite(mix(crops, np.array([1, 2, 3, 0]), np.random.default_rng(0))).all()


def test_a_crop_is_mixed_with_one_of_another_clip():
    crops = CropBatches(ramp_corpus([9000] * 5), DataConfig(crop_seconds=0.3, batch_clips=6), 2, seed=0)
    for seed in range(20):
        partners = crops._partners(6, np.random.default_rng(seed))
        assert partners.min() >= 0
        assert partners.max() < 12
        assert (partners % 6 != np.arange(12) % 6).all()


def test_kind_power_reaches_the_draw():
    corpus = ramp_corpus([9000] * 10, ["speech"] * 9 + ["music"])
    shares = []
    for power in (0.0, 1.0):
        crops = CropBatches(corpus, DataConfig(crop_seconds=0.3, batch_clips=400, kind_power=power), 1, seed=0)
        values = (crops[0][:, 0] * 32768).round().long() // 1000
        shares.append(float((values == 9).float().mean()))
    assert shares == pytest.approx([0.5, 0.1], abs=0.06)

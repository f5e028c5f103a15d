import dataclasses

import numpy as np
import pytest
import torch

from pretrain.synth.noises import ColouredNoise, fast_size
from pretrain.synth.strikes import BODIES, Clicks, DampedModes, mode_ratios, sum_of_modes

RATE = 16_000


def test_a_sum_of_modes_is_that_of_its_damped_cosines():
    random = np.random.default_rng(0)
    poles = -random.uniform(1, 100, 20) / RATE + 2j * np.pi * random.uniform(50, 7000, 20) / RATE
    amplitudes = random.standard_normal(20) * np.exp(2j * np.pi * random.random(20))
    n = np.arange(5001)
    expected = sum((a * np.exp(p * n)).real for a, p in zip(amplitudes, poles, strict=True))
    assert np.abs(sum_of_modes(poles, amplitudes, 5001) - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_strike_is_the_same_however_many_threads_torch_has():
    source = DampedModes.draw(np.random.default_rng(3))
    threads, sounds = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            sounds.append(source.render(100.0, 32_000, np.random.default_rng(0)))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*sounds)


def test_a_mode_falls_by_60_db_in_the_decay_time():
    source = DampedModes(np.ones(1), np.ones(1), 0.5, 1.0, 0.0)
    sound = source.render(400.0, RATE, np.random.default_rng(0))
    first, later = np.abs(sound[:400]).max(), np.abs(sound[8000:8400]).max()
    assert 20 * np.log10(later / first) == pytest.approx(-60, abs=0.5)


@pytest.mark.parametrize("body", sorted(BODIES))
def test_modes_of_every_body_begin_at_the_pitch_and_rise(body):
    ratios = mode_ratios(body, np.random.default_rng(0))
    assert ratios[0] == 1.0
    assert (ratios > 0.9).all()
    if body == "bar":
        assert abs(ratios[1] / 2.756 - 1) < 0.05
    if body == "clamped":
        assert abs(ratios[1] / 6.267 - 1) < 0.05


def test_clicks_are_short_and_few():
    source = Clicks(2000.0, 0.01, 0.5, 3, 0.05)
    sound = source.render(RATE, np.random.default_rng(0))
    assert 0 < (np.abs(sound) > 0).sum() <= 3 * 240


@pytest.mark.parametrize("slope", [-2.0, -1.0, 0.0, 1.0])
def test_the_power_of_noise_follows_its_slope(slope):
    source = ColouredNoise(slope, 1000.0, np.inf, 0.0, 1.0)
    power = np.abs(np.fft.rfft(source.render(64_000, np.random.default_rng(0)))) ** 2
    hertz = np.arange(len(power)) * RATE / 64_000
    low, high = (power[(hertz > f) & (hertz < 1.2 * f)].mean() for f in (500.0, 4000.0))
    assert np.log2(high / low) / 3 == pytest.approx(slope, abs=0.12)


def test_band_noise_lies_in_its_band_and_its_level_moves():
    band = ColouredNoise(0.0, 1000.0, 0.5, 0.0, 1.0)
    sound = band.render(RATE, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert power[700:1420].sum() > 0.95 * power.sum()
    moving = dataclasses.replace(band, centre=4000.0, octaves=4.0, depth=1.0, rate=4.0)
    sound = moving.render(RATE, np.random.default_rng(0))
    levels = np.sqrt(np.square(sound.reshape(-1, 250)).mean(1))
    assert levels.min() < 0.1 * levels.max()


def test_sizes_of_transforms_are_the_smallest_even_ones_without_large_factors():
    for count in (1, 2, 7, 31, 997, 32_000, 33_331, 44_800):
        size = fast_size(count)
        candidates = (2 * n for n in range(-(-count // 2), 2 * count + 2))

        def smooth(number):
            for factor in (2, 3, 5):
                while number % factor == 0:
                    number //= factor
            return number == 1

        assert size == next(n for n in candidates if smooth(n)), count

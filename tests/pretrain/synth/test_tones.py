import dataclasses

import numpy as np
import pytest

from pretrain.synth.tones import SHAPES, Contour, FrequencyModulation, HarmonicStack, resonance

RATE = 16_000


def stack(shape, **settings):
    drawn = HarmonicStack.draw(np.random.default_rng(0), shape)
    settings = {"formants": np.zeros((1, 0, 3)), "breath": 0.0, **settings}
    return dataclasses.replace(drawn, **settings)


def plain_sum(amplitudes, hertz, start):
    """The same sound as a sum of sines, one for each partial."""
    phase = 2 * np.pi * (np.cumsum(hertz) / RATE + start)
    sound = sum(amplitude * np.sin((k + 1) * phase) for k, amplitude in enumerate(amplitudes))
    return sound / np.sqrt(np.square(amplitudes).sum() / 2)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("pitch", [61.0, 440.0, 2900.0])
def test_a_stack_is_the_sum_of_its_partials_below_the_nyquist_frequency(shape, pitch):
    source = stack(shape)
    hertz = np.linspace(pitch, pitch * 1.2, 4000)
    sound = source.render(hertz, np.random.default_rng(1))
    random = np.random.default_rng(1)
    random.integers(1, size=2)
    number = min(int(8000 / hertz.max()), 256)
    expected = plain_sum(source._amplitudes(np.arange(1.0, number + 1)), hertz, random.random())
    assert np.abs(sound - expected).max() < 0.02 * np.abs(expected).max()
    assert sound.dtype == np.float32


def test_the_waveforms_are_the_classical_ones():
    time = np.arange(1, 1601) * 100.0 / RATE % 1.0
    hertz = np.full(1600, 100.0)
    shapes = {"saw": 0.5 - time, "square": np.sign(0.5 - time), "triangle": 1 - 4 * np.abs((time + 0.25) % 1 - 0.5)}
    for shape, wave in shapes.items():
        source = stack(shape)
        partials = plain_sum(source._amplitudes(np.arange(1.0, 80)), hertz, 0.0)
        assert np.corrcoef(partials, wave)[0, 1] > 0.98, shape


def test_a_high_saw_does_not_alias():
    hertz = np.full(RATE, 1777.0)
    sound = stack("saw").render(hertz, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(RATE))) ** 2
    at = np.zeros(len(spectrum), bool)
    for k in range(1, 5):
        at[1777 * k - 4 : 1777 * k + 5] = True
    assert spectrum[~at].sum() < 1e-5 * spectrum.sum()


def test_an_fm_tone_is_chownings_formula_and_stays_below_the_nyquist_frequency():
    source = FrequencyModulation(2.0, 3.0, 0.0)
    hertz = np.full(RATE, 500.0)
    sound = source.render(hertz, np.random.default_rng(0))
    random = np.random.default_rng(0)
    time = np.arange(1, RATE + 1) / RATE
    carrier, modulator = 500 * time + random.random(), 1000 * time + random.random()
    expected = np.sqrt(2) * np.sin(2 * np.pi * carrier + 3.0 * np.sin(2 * np.pi * modulator))
    assert np.abs(sound - expected).max() < 1e-3
    wide = FrequencyModulation(5.0, 12.0, 0.0).render(np.full(RATE, 3000.0), random)
    spectrum = np.abs(np.fft.rfft(wide)) ** 2
    assert spectrum[:200].sum() < 1e-3 * spectrum.sum(), "nothing comes back from above"


def test_a_contour_glides_and_vibrates_around_the_pitch():
    random = np.random.default_rng(0)
    steady = Contour(0.0, 1.0, 0.0, 5.0, 0.0).frequencies(220.0, 5000, random)
    assert np.allclose(steady, 220.0)
    vibrato = Contour(0.0, 1.0, 1.0, 5.0, 0.0).frequencies(220.0, 16_000, random)
    assert abs(vibrato.max() / 220.0 - 2 ** (1 / 12)) < 1e-3
    crossings = (np.diff(np.sign(vibrato - 220.0)) != 0).sum()
    assert 9 <= crossings <= 11
    glide = Contour(12.0, 1.0, 0.0, 5.0, 0.0).frequencies(220.0, 5000, random)
    assert glide[0] == pytest.approx(220.0)
    assert 110.0 <= glide[-1] <= 440.0
    assert glide[-1] != pytest.approx(220.0)


def test_a_resonance_has_its_gain_at_its_centre_and_half_the_power_at_the_edges_of_its_band():
    formants = np.array([[1000.0, 100.0, 8.0]])
    gains = resonance(np.array([1000.0, 1050.0, 950.0, 8000.0]), formants) - 1
    assert np.allclose(gains[:3], [8.0, 8 / 2**0.5, 8 / 2**0.5])
    assert gains[3] < 0.1

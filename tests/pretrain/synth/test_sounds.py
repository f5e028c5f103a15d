import subprocess
import sys

import numpy as np
import pytest
import soundfile

from maeast_upstream.audio.constants import FULL_SCALE
from maeast_upstream.cli import run
from pretrain.synth import __main__ as command
from pretrain.synth.channel import Channel, Recording, Room
from pretrain.synth.sounds import COMPUTED, Envelope, Rhythm, Sound, computed_crop

RATE = 16_000


def test_a_crop_is_a_function_of_seed_step_clip_and_view():
    crop = computed_crop((3, 7), 5, 1, 8000)
    assert np.array_equal(crop, computed_crop((3, 7), 5, 1, 8000))
    for other in (((4, 7), 5, 1), ((3, 8), 5, 1), ((3, 7), 6, 1), ((3, 7), 5, 0)):
        assert not np.array_equal(crop, computed_crop(*other, 8000))


def test_crops_of_every_sound_are_finite_audible_and_have_the_levels_of_16_bits():
    for clip in range(60):
        for samples in (3200, 9001):
            crop = computed_crop((0, 0), clip, 0, samples)
            assert crop.shape == (samples,)
            assert crop.dtype == np.float32
            assert np.isfinite(crop).all()
            assert 0 < np.abs(crop).max() <= 1.0
    assert np.array_equal(np.rint(crop * FULL_SCALE) / FULL_SCALE, crop)


def long_spectrum(samples):
    power = np.abs(np.fft.rfft(samples.reshape(-1, 400) * np.hanning(400))) ** 2
    return np.log(power.mean(0)[1:] + 1e-7)


def test_two_crops_of_a_sound_are_more_alike_than_crops_of_two_sounds():
    views = np.array([[long_spectrum(computed_crop((0, 0), c, view, 16_000)) for c in range(40)] for view in (0, 1)])
    distance = np.square(views[0][:, None] - views[1][None]).mean(2)
    assert np.median(np.diag(distance)) < 0.25 * np.median(distance)
    assert (distance.argmin(1) == np.arange(40)).mean() > 0.6


def test_all_families_and_rhythms_occur():
    sounds = [Sound.draw(np.random.default_rng((0, 0, clip, COMPUTED))) for clip in range(200)]
    layers = [layer for sound in sounds for layer in sound.layers]
    assert {type(layer.timbre).__name__ for layer in layers} == {"Tone", "Hiss", "Strike", "Rattle"}
    assert {type(layer.timbre.source).__name__ for layer in layers} >= {"HarmonicStack", "FrequencyModulation"}
    assert {layer.rhythm.kind for layer in layers} == {"whole", "single", "regular", "random"}
    assert {len(sound.layers) for sound in sounds} == {1, 2, 3}
    assert 0.3 < np.mean([sound.recording.room is None for sound in sounds]) < 0.7


def test_a_regular_rhythm_has_its_period_and_no_rhythm_is_empty():
    random = np.random.default_rng(0)
    times = Rhythm("regular", 0.25, 0.0, 1.0, 0.1).times(32_000, random)
    assert set(np.diff(times)) <= {3999, 4000, 4001}
    assert 7 <= len(times) <= 9
    for seed in range(100):
        random = np.random.default_rng(seed)
        assert len(Rhythm.draw(random).times(3200, random)) >= 1


def test_an_envelope_rises_falls_to_its_level_and_ends_at_0():
    values = Envelope(0.01, 0.1, 0.4, 0.25).values(8000)
    assert values[0] == 0
    assert values[160] == pytest.approx(1.0)
    assert values[1760:6000] == pytest.approx(0.4)
    assert values[-1] < 0.001
    assert np.isfinite(Envelope(0.4, 1.0, 0.5, 0.02).values(64)).all()


def test_a_room_leaves_the_direct_sound_where_it_is_and_decays():
    rooms = [room for seed in range(40) if (room := Room.draw(np.random.default_rng(seed))) is not None]
    for room in rooms:
        tail = room.response[1:]
        assert room.response[0] > 0.9
        quarters = np.square(tail[: len(tail) // 4 * 4].reshape(4, -1)).sum(1)
        assert quarters[3] < quarters[:2].max()


def test_channels_filter_as_they_say():
    hertz = np.array([50.0, 100.0, 1000.0, 2000.0, 4000.0, 6000.0], np.float32)
    none = np.zeros((0, 3), np.float32)
    assert np.allclose(Channel(0.0, 0.0, np.inf, np.inf, none).gains(hertz), 1.0)
    level = 20 * np.log10(Channel(-3.0, 0.0, np.inf, np.inf, none).gains(hertz))
    assert level[3] - level[2] == pytest.approx(-3.0, abs=1e-4)
    level = 20 * np.log10(Channel(0.0, 100.0, 4000.0, np.inf, none).gains(hertz))
    assert level[[1, 4]] == pytest.approx(-3.0, abs=0.05)
    assert Channel(0.0, 0.0, np.inf, 5000.0, none).gains(hertz)[-1] == 0.0
    peak = Channel(0.0, 0.0, np.inf, np.inf, np.array([[1000.0, 0.5, 6.0]], np.float32)).gains(hertz)
    assert 20 * np.log10(peak[2]) == pytest.approx(6.0, abs=1e-3)


def test_a_recording_has_its_level_and_silence_stays_silent():
    plain = Channel(0.0, 0.0, np.inf, np.inf, np.zeros((0, 3), np.float32))
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32)
    recorded = Recording(None, plain, 0.0, 0, -30.0).through(noise)
    assert 20 * np.log10(np.sqrt(np.square(recorded).mean())) == pytest.approx(-30.0, abs=0.1)
    assert np.corrcoef(recorded, noise)[0, 1] > 0.999
    assert not Recording(None, plain, 2.0, 64, -30.0).through(np.zeros(RATE, np.float32)).any()
    assert len(np.unique(Recording(None, plain, 0.0, 64, -30.0).through(noise))) <= 65


@pytest.mark.slow
def test_the_command_writes_wav_files_of_the_sounds_of_the_first_batch(tmp_path, capsys):
    arguments = ["-o", str(tmp_path / "sounds"), "--number", "2", "--crops", "2", "--seconds", "0.5", "--seed", "4"]
    assert run(command.main, [*arguments, "--picture", str(tmp_path / "sounds.png")]) == 0
    assert "4 files of 0.5 s" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "sounds").iterdir())
    assert names == ["00000-1.wav", "00000-2.wav", "00001-1.wav", "00001-2.wav"]
    samples, rate = soundfile.read(tmp_path / "sounds" / names[3], dtype="float32")
    assert rate == RATE
    assert np.abs(samples - computed_crop((4, 0), 1, 1, 8000)).max() <= 1 / FULL_SCALE
    assert (tmp_path / "sounds.png").stat().st_size > 1000


@pytest.mark.parametrize("wrong", [["--number", "0"], ["--seconds", "nan"], ["--crops", "1000"], ["--seed", "-1"]])
def test_a_wrong_option_of_the_command_is_one_line_and_nothing_is_written(tmp_path, capsys, wrong):
    assert run(command.main, ["-o", str(tmp_path / "sounds"), *wrong]) == 1
    error = capsys.readouterr().err
    assert wrong[0] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sounds").exists()


@pytest.mark.slow
def test_help_of_the_command_imports_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('pretrain.synth', run_name='__main__')\n"
    )
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0

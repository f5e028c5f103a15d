"""What stands in for sox: against a sample-by-sample version of its state machine, and sox where there is one."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from maeast_upstream.integrations.s3prl import sox_effects

KS = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]]
ASV = [*KS, ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]]


def silence_by_samples(samples, rate, seconds=0.1, threshold=0.001):
    """As sox does it: hold loud samples until there are enough, then copy until enough quiet ones are held."""
    window, run = [0.0] * (rate // 50), round(seconds * rate)
    kept, held, copying = [], [], False
    for sample in samples.tolist():
        window = [*window[1:], sample * sample]
        loud = np.sqrt(sum(window) / len(window)) > threshold
        if loud == copying:
            kept += [*held, sample] if copying else []
            held = []
        else:
            held.append(sample)
        if len(held) == run:
            kept += [] if copying else held
            window = [0.0] * len(window) if copying else window
            held, copying = [], not copying
    return np.array(kept + (held if copying else []), dtype=np.float32)


def speech_like(seed, rate=1000):
    """Loud and quiet stretches of many lengths; a low rate, since the check goes sample by sample."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(14):
        level = random.choice([0.0, 0.0003, 0.0011, 0.1, 0.3])
        parts.append(level * random.standard_normal(random.integers(5, 400)))
    return np.concatenate(parts).astype(np.float32), rate


@pytest.mark.parametrize("seed", range(30))
def test_silences_vanish_as_sox_has_it(seed):
    samples, rate = speech_like(seed)
    expected = silence_by_samples(samples, rate)
    assert np.array_equal(sox_effects.drop_silences(samples[None], rate, 0.1, 0.001)[0], expected)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_all_silence_leaves_nothing_and_no_silence_all(level):
    samples = np.full((1, 5000), level, dtype=np.float32)
    left = sox_effects.drop_silences(samples, 16000, 0.1, 0.001).shape[1]
    assert left == 0 if level == 0 else 4990 < left <= 5000


def test_mono_rate_and_gain(tmp_path):
    stereo = 0.2 * np.random.default_rng(0).standard_normal((8000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, 16000, subtype="FLOAT")
    wav, rate = sox_effects.apply_effects_file(str(tmp_path / "a.wav"), KS)
    assert rate == 16000
    assert torch.allclose(wav[0], torch.from_numpy(stereo.mean(1) * 10 ** (-3 / 20)))
    soundfile.write(tmp_path / "b.wav", np.sin(2 * np.pi * 440 * np.arange(8000) / 8000) / 2, 8000, subtype="FLOAT")
    wav, rate = sox_effects.apply_effects_file(str(tmp_path / "b.wav"), [["rate", "16000"]])
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000) / 2
    assert rate == 16000
    assert wav.shape == (1, 16000)
    assert (wav[0, 500:-500] - expected[500:-500]).abs().max() < 1e-3


def test_a_tensor_goes_the_same_way():
    wav = torch.randn(2, 3000)
    out, rate = sox_effects.apply_effects_tensor(wav, 16000, [["channels", "1"], ["norm"]])
    assert rate == 16000
    assert torch.allclose(out, wav.mean(0, keepdim=True) / wav.mean(0).abs().max())
    turned, _ = sox_effects.apply_effects_tensor(wav.T, 16000, [["channels", "1"], ["norm"]], channels_first=False)
    assert torch.equal(turned.T, out)


def test_other_effects_are_refused_by_name():
    with pytest.raises(ValueError, match="'vad -T 0.25'"):
        sox_effects.apply_effects_tensor(torch.zeros(1, 100), 16000, [["vad", "-T", "0.25"]])


def test_a_file_that_is_no_audio_is_named(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    for name in ("x.wav", "y.wav"):
        with pytest.raises(RuntimeError, match=f"{name}: cannot be read as audio"):
            sox_effects.apply_effects_file(str(tmp_path / name), KS)


@pytest.mark.slow
def test_it_works_in_a_process_where_nothing_is_repaired(tmp_path):
    """joblib's workers, which measure ASV's clips, import the function by its name."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    code = f"""
import pickle, sys
function = pickle.loads({__import__("pickle").dumps(sox_effects.apply_effects_file)!r})
print(function(sys.argv[1], {ASV!r})[0].shape[1], "torchaudio" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.wav"], capture_output=True, text=True, check=True)
    length, torchaudio = done.stdout.split()
    assert 15_900 < int(length) <= 16_000
    assert torchaudio == "False"


@pytest.mark.parametrize("effects", [KS, ASV], ids=["KS", "ASV"])
def test_it_equals_sox(clips, tmp_path, effects):
    """Only where torchaudio is older than 2.9 and libsox is there."""
    sox = pytest.importorskip("torchaudio.sox_effects")
    try:
        sox.effect_names()
        assert sox.apply_effects_file is not sox_effects.apply_effects_file
    except (AssertionError, OSError, RuntimeError):
        pytest.skip("no sox here")
    for number, clip in enumerate(clips):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, clip.numpy(), 16000)
        expected, actual = (module.apply_effects_file(str(path), effects)[0] for module in (sox, sox_effects))
        assert expected.shape == actual.shape
        assert torch.allclose(expected, actual, atol=1e-6)
        soundfile.write(path, clip.numpy(), 8000)
        expected, actual = (module.apply_effects_file(str(path), KS)[0] for module in (sox, sox_effects))
        assert abs(expected.shape[1] - actual.shape[1]) <= 1
        shortest = min(expected.shape[1], actual.shape[1])
        assert (expected[:, :shortest] - actual[:, :shortest]).abs().max() < 1e-3

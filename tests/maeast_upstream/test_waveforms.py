"""What people give the Python interface as audio: it is taken as it is meant, or refused in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from maeast_upstream import Readout, load_audio, load_model
from maeast_upstream.waveforms import to_clips, to_mono

SAMPLES = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
SCALE = {"int8": 2**7, "int16": 2**15, "int32": 2**31, "int64": 2**63, "uint8": 2**7, "uint16": 2**15, "uint32": 2**31}


@pytest.fixture(scope="module")
def encoder():
    return load_model()


@pytest.fixture
def wav(tmp_path):
    soundfile.write(tmp_path / "a.wav", SAMPLES, 16_000, subtype="FLOAT")
    return tmp_path / "a.wav"


def memory_mapped(samples, folder):
    np.save(folder / "a.npy", samples)
    return np.load(folder / "a.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda x: x, id="array"),
        pytest.param(lambda x: [x], id="list of arrays"),
        pytest.param(lambda x: (torch.from_numpy(x),), id="tuple of tensors"),
        pytest.param(lambda x: torch.from_numpy(x), id="tensor"),
        pytest.param(lambda x: x[None], id="batch of one"),
        pytest.param(lambda x: [x[None]], id="list with a leading axis"),
        pytest.param(lambda x: x.tolist(), id="numbers"),
        pytest.param(lambda x: [x.tolist()], id="list of numbers"),
        pytest.param(lambda x: list(x), id="numbers of numpy"),
        pytest.param(lambda x: x.astype(">f4"), id="other byte order"),
        pytest.param(lambda x: np.repeat(x, 2)[::2], id="every second sample"),
        pytest.param(lambda x: x[::-1].copy()[::-1], id="negative stride"),
        pytest.param(lambda x: x.astype(np.float64), id="float64"),
        pytest.param(lambda x: x.astype(np.longdouble), id="longdouble"),
    ],
)
def test_one_clip_however_it_is_given_is_the_same_clip(convert):
    (clip,) = to_clips(convert(SAMPLES))
    assert clip.dtype == torch.float32
    assert np.array_equal(clip.numpy(), SAMPLES)


def test_paths_and_arrays_may_share_a_list(encoder, wav):
    expected = encoder.embed([torch.from_numpy(SAMPLES)])
    for given in (wav, str(wav), [wav], np.array([str(wav)]), np.array([wav], object)):
        assert torch.equal(encoder.embed(given), expected)
    vectors = encoder.embed([wav, SAMPLES, SAMPLES.tolist()])
    torch.testing.assert_close(vectors, expected.expand(3, -1), atol=1e-5, rtol=0)


def test_a_memory_map_is_read_without_a_warning(tmp_path, recwarn):
    (clip,) = to_clips(memory_mapped(SAMPLES, tmp_path))
    assert np.array_equal(clip.numpy(), SAMPLES)
    assert not recwarn.list


def test_float32_samples_are_not_copied():
    tensor = torch.from_numpy(SAMPLES)
    batch = torch.stack([tensor, tensor])
    assert to_clips(SAMPLES)[0].data_ptr() == SAMPLES.ctypes.data
    assert to_clips([tensor])[0] is tensor
    assert to_clips(batch)[1].data_ptr() == batch[1].data_ptr()


@pytest.mark.parametrize("kind", SCALE)
@pytest.mark.parametrize("as_tensor", [True, False])
def test_whole_numbers_are_divided_by_their_range(kind, as_tensor):
    whole = np.round(SAMPLES.astype(np.float64) * SCALE[kind])
    whole = (whole + SCALE[kind] * kind.startswith("u")).astype(kind)
    (clip,) = to_clips(torch.from_numpy(whole) if as_tensor else whole)
    assert np.abs(clip.numpy() - SAMPLES).max() <= 0.5 / SCALE[kind] + 1e-7


def test_whole_numbers_of_64_bits_must_say_what_full_scale_is():
    with pytest.raises(ValueError, match=r"64 bits up to \d+ do not say what full scale is: give them as np.int16"):
        to_clips(np.round(SAMPLES * 32768).astype(np.int64))
    assert not to_clips([0, 0, 0])[0].any()  # silence has no scale


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000.0, np.int64(22_050)])
def test_samples_are_resampled_from_their_rate(rate):
    seconds = torch.arange(int(rate)) / int(rate)
    for given in (torch.sin(2 * torch.pi * 440 * seconds), [torch.sin(2 * torch.pi * 440 * seconds).numpy()]):
        (clip,) = to_clips(given, sample_rate=rate)
        expected = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)
        assert abs(len(clip) - 16_000) <= 1
        assert (clip[200:15_800] - expected[200:15_800]).abs().max() < 2e-3


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("in_list", [True, False])
def test_stereo_with_its_rate_is_one_clip(as_tensor, transposed, in_list):
    stereo = np.stack([SAMPLES, np.zeros_like(SAMPLES)])
    stereo = stereo.T if transposed else stereo
    stereo = torch.from_numpy(stereo) if as_tensor else stereo
    (clip,) = to_clips([stereo] if in_list else stereo, sample_rate=16_000)
    assert np.array_equal(clip.numpy(), SAMPLES / 2)


def test_a_batch_stays_a_batch_and_lengths_say_that_rows_are_clips():
    batch = np.stack([SAMPLES, SAMPLES])
    assert [len(clip) for clip in to_clips(batch)] == [16_000, 16_000]
    for lengths in ([5, 16_000], torch.tensor([5, 16_000]), np.array([5, 16_000])):
        assert [len(clip) for clip in to_clips(batch, lengths)] == [5, 16_000]
    assert [len(clip) for clip in to_clips(batch, [800, 16_000], 8_000)] == [1600, 32_000]
    assert [len(clip) for clip in to_clips(SAMPLES, [7])] == [7]


X = torch.zeros(1600)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "give at least one clip"),
        (np.zeros((0, 5)), {}, "give at least one clip"),
        ([X, torch.zeros(0)], {}, "clip 1: expected at least one sample"),
        (np.zeros(0), {}, "clip 0: expected at least one sample"),
        (torch.tensor(1.0), {}, "audio: expected a path, .* got shape ()"),
        (torch.zeros(1, 1, 5), {}, r"got shape \(1, 1, 5\): give a list of one-dimensional clips"),
        ([X, torch.zeros(2, 5)], {}, r"clip 1: expected .* got shape \(2, 5\): .*sample_rate=... with stereo"),
        (torch.zeros(4, 1600), {"sample_rate": 16_000}, r"got shape \(4, 1600\): give a list .* or the mean"),
        (np.zeros((1600, 2)), {}, "1600 clips of 2 samples: give sample_rate=..."),
        ([X, torch.full((5,), torch.nan)], {}, "clip 1: NaN or infinite samples"),
        (np.full(5, -np.inf), {}, "clip 0: NaN or infinite samples"),
        (32_767 * np.ones(5), {}, r"samples up to 3.28e\+04, where 1 is full scale: divide by 32768"),
        (X.bool(), {}, "expected real numbers, got torch.bool"),
        (X + 0j, {}, "expected real numbers, got torch.complex64"),
        (X.to_sparse(), {}, "expected real numbers, got torch.float32"),
        (np.zeros(5, "M8[s]"), {}, "expected numbers, got datetime64"),
        ([["0.1", "0.2"]], {}, "clip 0: expected numbers, got list"),
        ([[0.1], [[0.2], 0.3]], {}, "clip 1: expected numbers, got list"),
        ([0.1, "a"], {}, "clip 0: expected .* got float"),
        (["no.wav"], {}, "no.wav: no such file"),
        (b"RIFF", {}, "got bytes"),
        (None, {}, "got NoneType"),
        (3, {}, "got int"),
        ([X, None], {}, "clip 1: expected .* got NoneType"),
        ({"array": X, "sampling_rate": 8000}, {}, "a mapping: give its"),
        ([{"array": X}], {}, "clip 0: .* a mapping: give its"),
        ((x for x in [X]), {}, "generator: give list"),
        ((X[None], 44_100), {}, "got samples and a number: give a rate as sample_rate=44100"),
        (X, {"sample_rate": 0}, "sample rate 0 Hz"),
        (X, {"sample_rate": -16_000}, "sample rate -16000 Hz"),
        (X, {"sample_rate": "16000"}, "sample rate '16000' Hz"),
        (X, {"sample_rate": True}, "sample rate True Hz"),
        (X, {"sample_rate": float("nan")}, "sample rate nan Hz"),
        (X, {"sample_rate": 44_100.5}, "sample rate 44100.5 Hz"),
        (X[:1], {"sample_rate": 768_000}, "1 sample at 768000 Hz: not one sample"),
        (X[None], {"lengths": [0]}, "row 0 has 1600 samples, so give 1 to 1600, got 0"),
        (X[None], {"lengths": torch.tensor([-5])}, "got -5"),
        (X[None], {"lengths": [1601]}, "got 1601"),
        (X[None], {"lengths": [5, 5]}, "expected 1 whole numbers"),
        (X[None], {"lengths": torch.tensor([0.5])}, "whole numbers of samples"),
        (X[None], {"lengths": [True]}, "whole numbers of samples"),
        (X, {"lengths": 800}, "got 800: give a rate as sample_rate=..."),
        (np.ma.array([0.1, 9.0], mask=[False, True]), {}, r"masked ones: give samples.filled\(0\)"),
        (X[None, None], {"lengths": [5]}, r"lengths go with a \(B, S\)"),
        ([X], {"lengths": [5]}, "lengths go with"),
        ("a.wav", {"lengths": [5]}, "lengths go with"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(given, options, message):
    with pytest.raises(ValueError, match=message) as error:
        to_clips(given, **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_a_message_does_not_spell_out_what_came():
    for given in ({"x" * 100_000: 1}, ["y" * 10_000 + "\n"], [{"z" * 100_000}]):
        with pytest.raises(ValueError, match=".") as error:
            to_clips(given)
        assert len(str(error.value)) < 11_000


def test_gradients_pass_through_every_type_and_stereo_but_not_silently_not_through_resampling(encoder):
    for given in (torch.zeros(16_000), torch.zeros(16_000, dtype=torch.float64), torch.zeros(2, 16_000)):
        given.requires_grad_()
        encoder.embed(given + 0.01, sample_rate=16_000).sum().backward()
        assert given.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="gradients do not pass through the resampling from 8000 Hz"):
        encoder.embed(given, sample_rate=8_000)
    with torch.no_grad():
        assert encoder.embed(given, sample_rate=8_000).isfinite().all()


def test_every_method_takes_a_rate(encoder):
    readout = Readout(layer=1)
    half = torch.from_numpy(SAMPLES[::2].copy())
    (clip,) = to_clips(half, sample_rate=8_000)
    assert torch.equal(encoder(half, sample_rate=8_000), encoder.embed(clip))
    for method, options in ((encoder.encode, {"layers": 1}), (encoder.read, {"readouts": [readout]})):
        states = [
            method(given, sample_rate=rate, **options).hidden_states[0] for given, rate in ((half, 8_000), (clip, None))
        ]
        assert torch.equal(*states)


def test_one_recording_of_any_number_of_channels_is_mixed():
    six = np.stack([SAMPLES, *[np.zeros_like(SAMPLES)] * 5])
    for channels in (six, six.T):
        assert np.abs(to_mono(channels, 16_000) - SAMPLES / 6).max() < 1e-8
    assert len(to_mono(six, 48_000)) == pytest.approx(16_000 / 3, abs=1)
    with pytest.raises(ValueError, match=re.escape("got shape (1, 2, 5)")):
        to_mono(np.zeros((1, 2, 5)), 16_000)


def test_a_file_is_read_as_samples(wav):
    assert np.array_equal(load_audio(wav), SAMPLES)
    assert len(load_audio(Path(wav), 100, 200)) == 1600


def test_what_is_no_file_or_no_time_is_refused_in_one_line(wav):
    for given in (None, 5, [], np.zeros(5), [wav]):
        with pytest.raises(ValueError, match="expected a path or a binary file, got"):
            load_audio(given)
    with pytest.raises(ValueError, match="start_ms and end_ms are numbers of milliseconds, got '1' and None"):
        load_audio(wav, start_ms="1")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "make", [lambda: torch.zeros(9, device="meta"), lambda: torch.nested.nested_tensor([torch.ones(9)])]
)
def test_a_tensor_that_is_nested_or_has_no_data_is_refused_in_one_line(make):
    with pytest.raises(ValueError, match="^(audio|clip 0): expected samples, .*: give a list of clips$"):
        to_clips(make())

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from maeast_upstream import frontend
from maeast_upstream.frontend import SSAST_FRONTEND, Fbank, FrontendConfig, num_frames, num_samples

GOLDEN = Path(__file__).parents[1] / "golden" / "fbank.safetensors"


def kaldi(clip, **options):
    torchaudio = pytest.importorskip("torchaudio")
    return torchaudio.compliance.kaldi.fbank(
        clip[None],
        sample_frequency=16000,
        use_energy=False,
        num_mel_bins=128,
        **options,
    )


def signals():
    seconds = torch.arange(16000) / 16000
    return {
        "noise": 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)),
        "silence": torch.zeros(16000),
        "square wave": torch.sign(torch.sin(2 * math.pi * 1000 * seconds + 1e-3)),
        "sine": 0.9 * torch.sin(2 * math.pi * 1000 * seconds),
        "one frame": torch.linspace(-1, 1, 400),
    }


@pytest.mark.parametrize("name", signals())
def test_equals_kaldi_on_made_signals(name):
    clip = signals()[name]
    assert (Fbank()(clip[None])[0] - kaldi(clip)).abs().max() <= 1e-5


def test_equals_kaldi_on_real_clips(clips):
    for clip in clips:
        assert (Fbank()(clip[None])[0] - kaldi(clip)).abs().max() <= 1e-5


def test_ssast_preset_equals_its_loader(clips):
    for clip in clips:
        theirs = kaldi(
            clip - clip.mean(),
            htk_compat=True,
            window_type="hanning",
            dither=0.0,
            frame_shift=10,
        )
        # the mean in float64, theirs in float32: measured 3e-4 at most over all clips of tests/data
        assert (Fbank(SSAST_FRONTEND)(clip[None])[0] - theirs).abs().max() <= 1e-3


@pytest.mark.parametrize("preset", ["povey", "ssast"])
@pytest.mark.parametrize(
    ("name", "most", "mean"),
    # another machine's FFT rounds otherwise, which bins with little energy beside a loud one show: between an Intel
    # and an AMD processor up to 4e-3 in a pure tone, on average 2e-4
    [
        ("noise", 1e-3, 1e-4),
        ("silence", 1e-6, 1e-6),
        ("noisy sweep", 1e-3, 1e-4),
        ("square", 1e-2, 3e-4),
        ("sine", 1e-2, 3e-4),
    ],
)
def test_equals_stored_kaldi_values(name, most, mean, preset):
    stored = load_file(GOLDEN)
    fbank = Fbank(FrontendConfig() if preset == "povey" else SSAST_FRONTEND)
    difference = (fbank(stored[f"{name}.waveform"][None])[0] - stored[f"{name}.{preset}"]).abs()
    assert difference.shape == (8, 128)
    assert difference.max() <= most
    assert difference.mean() <= mean


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(400, 3000), min_size=1, max_size=4))
def test_rows_have_their_own_frames_and_do_not_see_past_their_end(lengths):
    generator = torch.Generator().manual_seed(sum(lengths))
    batch = torch.full((len(lengths), max(lengths)), torch.nan)
    for row, length in enumerate(lengths):
        batch[row, :length] = torch.randn(length, generator=generator)
    for config in (FrontendConfig(), SSAST_FRONTEND):
        fbank = Fbank(config)
        together = fbank(batch, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            frames = 1 + (length - 400) // 160
            assert int(num_frames(torch.tensor(length))) == frames
            assert num_samples(frames) <= length < num_samples(frames + 1)
            alone = fbank(batch[row : row + 1, :length])[0]
            assert alone.shape == (frames, 128)
            assert (together[row, :frames] - alone).abs().max() <= 1e-5
            assert (together[row, frames:] == 0).all()


def test_no_frames_below_one_window():
    assert num_frames(torch.tensor([0, 1, 399, 400, 559, 560])).tolist() == [
        0,
        0,
        0,
        1,
        1,
        2,
    ]


def test_chunks_change_nothing(monkeypatch, long_clip):
    whole = Fbank()(long_clip[None])
    monkeypatch.setitem(frontend._CHUNK_FRAMES, "cpu", 7)
    assert (Fbank()(long_clip[None]) - whole).abs().max() <= 1e-5


def test_chunks_change_nothing_in_a_ragged_batch(monkeypatch):
    batch, lengths = torch.randn(3, 4000), torch.tensor([4000, 399, 1999])
    whole = Fbank()(batch, lengths)
    monkeypatch.setitem(frontend._CHUNK_FRAMES, "cpu", 7)
    torch.testing.assert_close(Fbank()(batch, lengths), whole, atol=1e-5, rtol=0)
    assert (whole[1] == 0).all(), "a clip below one window has no frames"


def test_float32_inside_whatever_comes(clips):
    clip = clips[0][None]
    fbank = Fbank()
    exact = fbank(clip)
    with torch.autocast("cpu", torch.bfloat16):
        inside = fbank(clip)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, exact)
    assert torch.equal(fbank(clip.double()), exact)
    rough = fbank(clip.bfloat16())
    assert rough.dtype == torch.float32
    assert torch.equal(rough, fbank(clip.bfloat16().float()))


@pytest.mark.parametrize("config", [FrontendConfig(), SSAST_FRONTEND], ids=["povey", "ssast"])
def test_gradients_are_those_of_finite_differences(config):
    fbank = Fbank(config)
    clip = (0.1 * torch.randn(1, 900, generator=torch.Generator().manual_seed(0))).requires_grad_()
    fbank(clip).mean().backward()
    direction = torch.randn(1, 900, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        step = 1e-3 * direction
        measured = (fbank(clip + step).double().mean() - fbank(clip - step).double().mean()) / 2e-3
    assert float((clip.grad * direction).sum()) == pytest.approx(float(measured), rel=0.05)


def test_no_gradient_comes_from_past_a_clips_end():
    batch = torch.randn(2, 2000)
    batch[1, 1000:] = torch.nan
    batch.requires_grad_()
    Fbank(SSAST_FRONTEND)(batch, torch.tensor([2000, 1000])).sum().backward()
    assert batch.grad.isfinite().all()
    assert (batch.grad[1, 1000:] == 0).all()
    assert (batch.grad[1, :1000] != 0).any()


def test_the_exported_graph_has_no_complex_numbers():
    program = torch.export.export(Fbank(), (torch.randn(2, 8000),))
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert not any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)


@pytest.mark.slow
def test_exports_to_onnx_without_complex_numbers(tmp_path, clips):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    clip = clips[0][None]
    batch = torch.export.Dim("batch")
    samples = torch.export.Dim("samples", min=400)
    shapes = {"waveforms": {0: batch, 1: samples}}
    path = tmp_path / "fbank.onnx"
    torch.onnx.export(
        Fbank().eval(),
        (torch.randn(2, 16000),),
        path,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    exported = onnxruntime.InferenceSession(path).run(None, {"waveforms": clip.numpy()})[0]
    # a real DFT as a matrix product rounds otherwise: measured 4e-3 in bins with little energy
    assert np.abs(exported - Fbank()(clip).numpy()).max() <= 1e-2
    assert np.abs(exported - Fbank()(clip).numpy()).mean() <= 1e-5


@pytest.mark.parametrize("shape", [(16000,), (1, 399), (1, 2, 3)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected waveforms of shape \(B, S\)"):
        Fbank()(torch.zeros(shape))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="window must be povey or hanning"):
        FrontendConfig(window="hamming")
    with pytest.raises(ValueError, match="num_mel_bins"):
        FrontendConfig(num_mel_bins=0)


@pytest.mark.gpu
def test_gpu_equals_cpu(clips):
    for clip in clips:
        assert (Fbank().cuda()(clip[None].cuda()).cpu() - Fbank()(clip[None])).abs().max() <= 1e-2

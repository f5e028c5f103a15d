import os
import re
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread

from maeast_upstream import encoder as encoder_module
from maeast_upstream.frontend import Fbank
from maeast_upstream.model import patchify
from maeast_upstream.visualization.figures import drawing
from pretrain import reconstruction, visualize
from pretrain.masking.mask_types import MASK_TYPES
from pretrain.masking.rules import num_masked


def reconstruct(encoder, waveform, ratio=0.75, mask="random", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return reconstruction.reconstruct_clip(encoder, waveform, ratio, mask, generator)


@pytest.fixture
def command(make_encoder, monkeypatch, tmp_path, long_clip):
    """A function that runs `maeast visualize` on a real clip with a small network."""
    monkeypatch.setattr(encoder_module, "load_model", lambda _: make_encoder())
    soundfile.write(tmp_path / "drums.wav", long_clip[:40000].numpy(), 16000)

    def run(*options, out="picture.png"):
        return visualize.main([str(tmp_path / "drums.wav"), "-o", str(tmp_path / out), *options])

    return run


def test_the_original_is_the_log_mel_spectrogram(make_encoder, tokens, long_clip):
    result = reconstruct(make_encoder(tokens), long_clip[:16000])
    fbank = Fbank()(long_clip[None, :16000])[0].numpy()
    np.testing.assert_allclose(result.original, fbank[: len(result.original)], atol=1e-4)
    assert len(fbank) - len(result.original) < 16


def test_visible_tokens_stay_and_masked_ones_are_the_decoder_s(make_encoder, tokens, long_clip):
    encoder = make_encoder(tokens)
    result = reconstruct(encoder, long_clip[:16000])
    np.testing.assert_array_equal(result.rebuilt[~result.masked], result.original[~result.masked])
    where = torch.from_numpy(result.masked)[None].float()
    masked = patchify(where, encoder.config.model)[0, :, 0].nonzero()[:, 0]
    visible = (1 - patchify(where, encoder.config.model)[0, :, 0]).nonzero()[:, 0]
    patches = encoder.patches(long_clip[None, :16000])
    with torch.no_grad():
        predicted = encoder.network.predict(patches, visible[None], masked[None]).reconstruction
    rebuilt = patchify(torch.from_numpy(result.rebuilt)[None], encoder.config.model)[:, masked]
    torch.testing.assert_close((rebuilt + 6.0) / 4.0 * 0.5, predicted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", MASK_TYPES)
@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.75, 0.9999])
def test_whole_tokens_are_masked_and_their_count_is_exact(make_encoder, tokens, long_clip, mask, ratio):
    encoder = make_encoder(tokens)
    result = reconstruct(encoder, long_clip[:16000], ratio, mask)
    hidden = patchify(torch.from_numpy(result.masked)[None].float(), encoder.config.model)[0]
    assert ((hidden == 0).all(1) | (hidden == 1).all(1)).all()
    assert hidden[:, 0].sum() == num_masked(len(hidden), ratio)


def test_the_mask_comes_from_the_seed(make_encoder, long_clip):
    encoder = make_encoder()
    one, same, other = (reconstruct(encoder, long_clip[:32000], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.masked, same.masked)
    np.testing.assert_array_equal(one.rebuilt, same.rebuilt)
    assert (one.masked != other.masked).any()


def test_the_error_is_0_for_a_perfect_picture_and_1_for_the_mean():
    original = np.random.default_rng(0).normal(size=(32, 16))
    masked = np.zeros_like(original, dtype=bool)
    masked[:, 4:] = True
    assert reconstruction.Reconstruction(original, masked, original).error == 0
    mean = np.where(masked, original[masked].mean(), original)
    assert reconstruction.Reconstruction(original, masked, mean).error == pytest.approx(1)


def test_a_clip_under_one_token_is_padded_to_one(make_encoder):
    result = reconstruct(make_encoder("patch"), 0.1 * torch.randn(100))
    assert result.original.shape == (16, 128)
    with pytest.raises(ValueError, match="one token long"):
        reconstruct(make_encoder("frame"), 0.1 * torch.randn(100))


def test_silence_has_an_error_but_no_percentage(make_encoder):
    result = reconstruct(make_encoder(), torch.zeros(16000))
    assert np.isfinite(result.error)
    assert re.fullmatch(
        r"mean squared error [\d.e+]+ of the masked tokens, which hardly vary \(silence\?\)", result.describe_error()
    )


@pytest.mark.parametrize("signal", ["zeros", "constant", "click", "faint noise"])
@pytest.mark.parametrize("samples", [2881, 5200, 16000])
def test_silence_and_short_clips_are_drawn_without_a_warning(make_encoder, tmp_path, signal, samples):
    clip = torch.full((samples,), {"constant": 0.5}.get(signal, 0.0))
    if signal == "click":
        clip[samples // 2] = 1.0
    if signal == "faint noise":
        clip += 1e-7 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    result = reconstruct(make_encoder(), clip)
    assert "nan" not in result.describe_error()
    assert not re.search(r"\d{5,}%", result.describe_error())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawing(tmp_path / "x.png", 10, 6.5) as figure:
            reconstruction.draw(figure, result)


@pytest.mark.parametrize("name", ["take_$1_$2.wav", os.fsdecode(b"caf\xe9.wav"), "_%s\n<b>.wav", f"{'x' * 240}.wav"])
@pytest.mark.usefixtures("command")
def test_a_clip_of_any_name_is_drawn(tmp_path, name):
    (tmp_path / "drums.wav").rename(tmp_path / name)
    assert visualize.main([str(tmp_path / name), "-o", str(tmp_path / "x.png"), "--seconds", "1"]) == 0


def test_a_checkpoint_without_decoder_is_refused(make_encoder, long_clip):
    with pytest.raises(ValueError, match="no decoder"):
        reconstruct(make_encoder(shape={"decoder_depth": 0}), long_clip[:16000])


@pytest.mark.parametrize("hz", [500, 1000, 4000])
def test_a_tone_lies_where_the_axis_says(hz):
    tone = torch.sin(2 * torch.pi * hz * torch.arange(16000) / 16000)
    loudest = int(Fbank()(tone[None])[0].mean(0).argmax())
    assert loudest <= reconstruction.mel_bin(hz, 128) + 0.5
    assert loudest + 1 >= reconstruction.mel_bin(hz, 128) - 0.5


def test_a_picture_of_three_spectrograms_is_written(command, tmp_path, capsys):
    assert command("--seconds", "2", "--mask", "chunk") == 0
    picture = imread(tmp_path / "picture.png")
    assert picture.shape[0] > 600
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1
    assert "picture.png" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"drums.wav", "picture.png"}


def test_the_same_command_draws_the_same_picture(command, tmp_path):
    for name in ("one.png", "two.png"):
        assert command("--seconds", "1", out=name) == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_no_display_and_no_pyplot_are_needed(command):
    command("--seconds", "1")
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        (
            ["--mask-ratio", "1"],
            "x.png",
            "--mask-ratio must lie between 0 and 1, got 1",
        ),
        (["--mask-ratio", "nan"], "x.png", "--mask-ratio must lie"),
        (["--seconds", "0"], "x.png", "--seconds must be above 0"),
        (["--seconds", "inf"], "x.png", "--seconds must be above 0"),
        (["--seconds", "1e308"], "x.png", "--seconds must be above 0"),
        (["--mask", "spans"], "x.png", "invalid choice"),
        ([], "x.docx", r"a name that ends in \.png"),
        ([], "picture", r"a name that ends in \.png"),
        ([], "nowhere/x.png", "no such folder"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_computed(command, monkeypatch, tmp_path, options, out, message):
    monkeypatch.setattr(encoder_module, "load_model", lambda _: pytest.fail("computed"))
    with pytest.raises(ValueError, match=message):
        command(*options, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["drums.wav"]


def test_an_unreadable_clip_leaves_no_file(tmp_path):
    (tmp_path / "x.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"x\.wav"):
        visualize.main([str(tmp_path / "x.wav"), "-o", str(tmp_path / "x.png")])
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_without_matplotlib_the_error_names_the_extra(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match=r"pip install .*\[plot\]'"):
        command()


def test_the_command_offers_every_mask_type():
    assert tuple(MASK_TYPES) == visualize.MASK_TYPES

"""Embeddings, log-mel statistics and random weights of the clips of a set."""

import argparse

import numpy as np
import pytest
import soundfile
import torch
from labelled_clips import write_real_clips, write_tones

from maeast_upstream.arguments import readouts_from
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoder
from maeast_upstream.evaluation import features
from maeast_upstream.evaluation.features import embeddings, logmel_features, randomized
from maeast_upstream.evaluation.labelled_set import read_labels
from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig
from maeast_upstream.readout import Readout

TINY = EncoderConfig(
    model=ModelConfig(
        patch_mels=16,
        num_mel_bins=32,
        embed_dim=16,
        depth=2,
        num_heads=2,
        ffn_dim=32,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
        decoder_ffn_dim=32,
    ),
    frontend=FrontendConfig(num_mel_bins=32),
)


DRUMS = {"cymbal_crash", "kick", "snare", "tom"}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return randomized(Encoder(TINY))


@pytest.fixture(scope="module")
def drums(tmp_path_factory):
    """Four classes of the real clips."""
    return write_real_clips(tmp_path_factory.mktemp("drums") / "labels.csv", DRUMS.__contains__)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


def test_features_of_a_batch_are_those_of_embed(encoder, tones):
    labelled_set = read_labels(tones)
    readouts = [
        Readout(layer=2, pool="mean_std"),
        Readout(layer="all", mel="mean", pool="mean_max"),
        Readout(layer="mean", mel="mean", hop_ms=40.0),
        Readout(layer=1),
    ]
    vectors = embeddings(labelled_set.paths, encoder, readouts)
    clips = [torch.from_numpy(read_audio(path)) for path in labelled_set.paths]
    for readout in readouts:
        alone = encoder.embed(clips, readout=readout).numpy()
        np.testing.assert_allclose(vectors[readout], alone, atol=1e-5)


def test_a_grid_costs_one_pass_of_each_clip(encoder, tones, monkeypatch):
    seen = []
    forward = Encoder.forward_batch
    monkeypatch.setattr(
        Encoder, "forward_batch", lambda self, clips, *a, **k: (seen.extend(clips), forward(self, clips, *a, **k))[1]
    )
    args = argparse.Namespace(
        layer="1,2,mean,all", mel="concat,mean", pool="mean,mean_std", hop_ms=None, dims=None, whiten=None
    )
    grid = readouts_from(args, Readout())
    embeddings(read_labels(tones).paths, encoder, grid)
    assert len(grid) == 16
    assert len(seen) == 24


def test_reading_in_blocks_changes_nothing(tones, monkeypatch):
    paths = read_labels(tones).paths
    whole = logmel_features(paths)
    monkeypatch.setattr(features, "READ_SECONDS", 1.0)
    np.testing.assert_array_equal(logmel_features(paths), whole)


def test_logmel_features_are_those_of_torchaudio(drums):
    kaldi = pytest.importorskip("torchaudio").compliance.kaldi
    path = read_labels(drums).paths[0]
    logmel = kaldi.fbank(
        torch.from_numpy(read_audio(path))[None],
        window_type="hanning",
        num_mel_bins=128,
        htk_compat=True,
        use_energy=False,
        dither=0.0,
    ).numpy()
    expected = np.concatenate([logmel.mean(0), logmel.std(0)])
    np.testing.assert_allclose(logmel_features([path])[0], expected, atol=1e-3)


def test_a_clip_under_one_window_has_logmel_features(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.full(100, 0.5), 16000)
    assert np.isfinite(logmel_features([tmp_path / "click.wav"])).all()


def test_random_weights_come_from_the_seed_and_leave_the_global_generator_alone(encoder):
    state = torch.get_rng_state()
    weights = [randomized(encoder, seed).network.patch_embed.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])

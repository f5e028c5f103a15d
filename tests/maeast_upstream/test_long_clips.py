"""Scene embeddings that a checkpoint's projection shortens, of whole clips and of long ones."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from processors import HAS_AMX
from projections import projection_of

from maeast_upstream import Readout, load_model
from maeast_upstream.checkpoint import fit_projection
from maeast_upstream.extract import embed_files
from maeast_upstream.fingerprint import fingerprint, has_fingerprint, load_same, results_key

RICH = Readout(layer="mean", pool="mean_max", hop_ms=40.0)


@pytest.fixture
def encoder(make_encoder):
    encoder = make_encoder()
    encoder.use_projection(projection_of(encoder.config, RICH))
    return encoder


def plain(encoder, full, dims):
    """The definition: the products with the first components."""
    return full.double() @ torch.from_numpy(encoder.projection.rows[:dims]).double().T


def test_a_vector_with_dims_is_the_projected_full_one(encoder, clips):
    full = encoder.embed(clips, readout=RICH)
    for dims in (20, 1, 7):
        short = encoder.embed(clips, readout=replace(RICH, dims=dims))
        assert short.dtype == torch.float32
        assert torch.equal(short, plain(encoder, full, dims).float())
    alone = encoder(clips[:1], readout=replace(RICH, dims=7))  # products of other sizes may round otherwise
    bound = 1e-5 if HAS_AMX else 0.0
    torch.testing.assert_close(alone, short[:1], atol=bound, rtol=bound)
    assert torch.equal(encoder.embed(clips, readout=replace(RICH, dims=20))[:, :7], short)


def test_full_and_short_vectors_come_from_one_pass(encoder, clips):
    full, short = encoder.embed_readouts(clips, [RICH, replace(RICH, dims=5)])
    assert torch.equal(short, plain(encoder, full, 5).float())


def test_gradients_go_through_the_projection(encoder, clips):
    clip = clips[0].clone().requires_grad_()
    encoder.embed([clip], readout=replace(RICH, dims=5)).sum().backward()
    assert clip.grad.abs().sum() > 0


@pytest.mark.slow
def test_a_long_clip_is_projected_once_all_of_it_has_come(make_encoder, long_clip, tmp_path):
    encoder = make_encoder(max_seconds=2.0, window_seconds=1.0)
    encoder.use_projection(projection_of(encoder.config, RICH))
    path = tmp_path / "long.wav"
    soundfile.write(path, long_clip.numpy(), 16000, subtype="FLOAT")
    readout = replace(RICH, dims=6)
    full, short = (encoder.embed(path, readout=each) for each in (RICH, readout))
    assert torch.equal(short, plain(encoder, full, 6).float())
    (row,) = embed_files(path, encoder, readout=readout, workers=0)
    np.testing.assert_allclose(row["vector"], short[0].numpy(), atol=1e-5)
    (whole,) = embed_files(path, encoder, readout=RICH, workers=0)
    assert np.array_equal(row["vector"], plain(encoder, torch.from_numpy(whole["vector"]), 6).float().numpy())


def test_time_steps_are_never_projected(encoder, clips, tmp_path):
    own = encoder.config
    encoder.config = replace(own, readout=replace(RICH, dims=5))
    expected = encoder.read(clips[:1], readouts=[RICH]).hidden_states[0]
    assert torch.equal(encoder.read(clips[:1], readouts=[encoder.config.readout]).hidden_states[0], expected)
    soundfile.write(tmp_path / "clip.wav", clips[0].numpy(), 16000, subtype="FLOAT")
    rows = list(embed_files(tmp_path / "clip.wav", encoder, kind="frames", workers=0))
    assert np.array_equal(np.stack([row["vector"] for row in rows]), expected[0].numpy())
    with pytest.raises(ValueError, match="dims goes with kind scene"):
        next(embed_files(tmp_path / "clip.wav", encoder, kind="frames", readout=encoder.config.readout, workers=0))


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        (replace(RICH, dims=21), "dims must be at most 20"),
        (Readout(dims=5), "fitted for layer mean, mel concat, pool mean_max, hop 40 ms; leave dims out"),
        (replace(RICH, hop_ms=None, dims=5), "dims 5 of layer mean, mel concat, pool mean_max, hop native"),
    ],
)
def test_dims_that_the_projection_cannot_give_are_refused_before_the_work(encoder, clips, readout, message):
    with pytest.raises(ValueError, match=message):
        encoder.embed(clips, readout=readout)
    with pytest.raises(ValueError, match=message):
        encoder.check_readout(readout)
    encoder.use_projection(None)
    with pytest.raises(ValueError, match="the checkpoint stores no projection"):
        encoder.embed(clips, readout=readout)


def test_a_projection_of_another_network_is_refused(make_encoder):
    encoder = make_encoder()
    other = projection_of(make_encoder(shape={"embed_dim": 64}).config)
    with pytest.raises(ValueError, match="of length 256"):
        encoder.use_projection(other)
    assert encoder.projection is None


def test_a_projection_is_stored_loaded_copied_and_sent_with_its_encoder(encoder, clips, tmp_path):
    weights = set(encoder.state_dict())
    assert not any("projection" in name for name in weights)
    encoder.config = replace(encoder.config, readout=replace(RICH, dims=5))
    expected = encoder.embed(clips[:1])
    encoder.save_pretrained(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert loaded.projection.digest == encoder.projection.digest
    for other in (loaded, copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other.embed(clips[:1]), expected)


def test_without_its_projection_a_readout_is_stored_in_full(encoder, tmp_path):
    encoder.config = replace(encoder.config, readout=replace(RICH, dims=5))
    encoder.projection = None
    encoder.save_pretrained(tmp_path / "saved")
    assert load_model(tmp_path / "saved").config.readout == RICH


def test_fingerprints_differ_by_dims_and_by_projection_and_full_vectors_keep_theirs(encoder, make_encoder, tmp_path):
    bare, short = make_encoder(), replace(RICH, dims=5)
    assert fingerprint(encoder) == fingerprint(encoder, RICH) == fingerprint(bare) == fingerprint(bare, RICH)
    digest = fingerprint(encoder, short)
    assert digest != fingerprint(encoder)
    assert results_key(encoder) == results_key(bare) != results_key(encoder, short)
    encoder.save_pretrained(tmp_path / "saved")
    assert fingerprint(load_same(str(tmp_path / "saved"), digest), short) == digest
    encoder.use_projection(projection_of(encoder.config, RICH, seed=1))
    assert fingerprint(encoder, short) != digest
    assert has_fingerprint(encoder, fingerprint(bare))
    assert not has_fingerprint(encoder, digest)
    encoder.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other weights, settings or projection"):
        load_same(str(tmp_path / "other"), digest)


def test_short_vectors_have_nearly_the_cosines_of_the_standardized_full_ones(make_encoder, clips):
    encoder = make_encoder()
    full = encoder.embed(clips, readout=RICH)
    encoder.use_projection(fit_projection([full.numpy()], RICH, len(clips))[0])
    short = encoder.embed(clips, readout=replace(RICH, dims=len(clips)))
    standardized = full / full.std(dim=0, correction=0)
    cosines = [torch.nn.functional.cosine_similarity(each[:1], each[1:]) for each in (standardized, short)]
    torch.testing.assert_close(*cosines, atol=1e-3, rtol=0)

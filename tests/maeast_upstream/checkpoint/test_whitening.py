"""Whitening: what it does to vectors, how it is fitted and stored, and files that are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from projections import random_vectors, whitening_of
from safetensors.numpy import load_file, save_file
from small import small_config

from maeast_upstream import Readout
from maeast_upstream.checkpoint import PROJECTION_NAME, Projection, fit_projection, fit_whitening
from maeast_upstream.checkpoint.projection import read_projection
from maeast_upstream.checkpoint.whitening import SHRINKAGE, separate, shrunk_root
from maeast_upstream.config import EncoderConfig

CONFIG = EncoderConfig(model=small_config())
"""Scene embeddings of 256 numbers: 8 mel patches of 32."""
WHITE = Readout(whiten=True)


def correlated(rows, groups, numbers, seed=0):
    """(rows, G * D) vectors whose covariance is the Kronecker product of the matrices, around a mean."""
    random = np.random.default_rng(seed)
    drawn = random.standard_normal((rows, len(groups), len(numbers)))
    mixed = np.linalg.cholesky(groups) @ drawn @ np.linalg.cholesky(numbers).T
    return (mixed.reshape(rows, -1) + 3).astype(np.float32)


def correlation_matrix(size, seed):
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((size, 2 * size))
    return np.corrcoef(mixed)


def test_a_separable_covariance_is_found():
    groups, numbers = correlation_matrix(3, 0), correlation_matrix(5, 1)
    found = separate(np.kron(groups, numbers), 5)
    for matrix, expected in zip(found, (groups, numbers), strict=True):
        np.testing.assert_allclose(matrix, expected, atol=2e-3)


def test_whitened_numbers_vary_alike_and_are_little_correlated():
    groups, numbers = correlation_matrix(4, 0), correlation_matrix(8, 1)
    vectors = correlated(4000, groups, numbers) * np.linspace(0.1, 50, 32, dtype=np.float32)
    whitening = fit_whitening(np.array_split(vectors, 3), 8)
    white = whitening.apply(vectors)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=0.02)
    before, after = (np.abs(np.corrcoef(each.T) - np.eye(32)).mean() for each in (vectors, white))
    assert after < 0.4 * before
    deviations = white.std(axis=0)
    assert deviations.max() < 2.5 * deviations.min()


def test_what_is_whitened_is_what_the_shrunk_matrices_say():
    groups, numbers = correlation_matrix(3, 2), correlation_matrix(4, 3)
    vectors = correlated(500, groups, numbers)
    whitening = fit_whitening([vectors], 4)
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    expected = separate(np.corrcoef(vectors.T), 4)
    roots = [shrunk_root(matrix) for matrix in expected]
    np.testing.assert_allclose(whitening.apply(vectors), scaled @ np.kron(*roots), atol=2e-4)
    for matrix, root in zip(expected, roots, strict=True):
        mixed = (1 - SHRINKAGE) * matrix + SHRINKAGE * np.eye(len(matrix))
        np.testing.assert_allclose(root @ mixed @ root, np.eye(len(matrix)), atol=1e-9)


def test_a_constant_number_becomes_part_of_nothing():
    vectors = random_vectors(16, 60)
    vectors[:, 3] = 5
    whitening = fit_whitening([vectors], 8)
    assert np.flatnonzero(whitening.weights == 0).tolist() == [3]
    changed = vectors.copy()
    changed[:, 3] = 1e6
    np.testing.assert_array_equal(whitening.apply(changed), whitening.apply(vectors))


def test_too_few_vectors_are_refused():
    with pytest.raises(ValueError, match="4 vectors are too few for a whitening; expected at least 5"):
        fit_whitening([random_vectors(16, 4)], 8)
    with pytest.raises(ValueError, match="the vectors do not vary"):
        fit_whitening([np.ones((20, 16), np.float32)], 8)
    with pytest.raises(ValueError, match="no vectors"):
        fit_whitening([], 8)


def test_a_file_gives_back_a_whitening_alone_and_with_components(tmp_path):
    alone = whitening_of(CONFIG)
    white = alone.whitening.apply(random_vectors(256, 100))
    both, _ = fit_projection([white], WHITE, 20, alone.whitening)
    for projection, rows in ((alone, 0), (both, 20)):
        projection.save(tmp_path)
        found = read_projection(tmp_path, replace(CONFIG, readout=WHITE))
        assert (found.readout, found.digest, found.shape) == (WHITE, projection.digest, (rows, 256))
        for name in ("mean", "weights", "groups", "numbers"):
            assert np.array_equal(getattr(found.whitening, name), getattr(projection.whitening, name))
    assert alone.digest != both.digest != whitening_of(CONFIG, seed=1).digest


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        (Readout(whiten=True, dims=4), "dims 4: the checkpoint stores a whitening only; fit components with maeast"),
        (Readout(dims=4), "dims 4 of layer last, .* was fitted for .*, whitened"),
        (Readout(layer=1, whiten=True), "whiten of layer 1, .*, whitened: .* was fitted for layer last"),
    ],
)
def test_a_checkpoint_s_own_readout_must_fit_its_whitening(tmp_path, readout, message):
    whitening_of(CONFIG).save(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_projection(tmp_path, replace(CONFIG, readout=readout))
    (tmp_path / PROJECTION_NAME).unlink()
    with pytest.raises(
        ValueError,
        match="config.json: readout: whiten: the checkpoint stores no whitening; leave whiten",
    ):
        read_projection(tmp_path, replace(CONFIG, readout=WHITE))


BAD = {
    "NaN in the mean": ({"mean": np.full(256, np.nan, "f4")}, "a mean beyond"),
    "huge weights": ({"weights": np.full(256, 1e30, "f4")}, "weights that are not 256 numbers from 0"),
    "huge matrices": ({"numbers": np.full((32, 32), 1e30, "f4")}, "entries beyond 100, or NaN"),
    "another width": ({"groups": np.ones((4, 4), "f4")}, "groups of shape (4, 4); expected (8, 8)"),
    "a missing matrix": ({"groups": None}, "fit it again with maeast project"),
    "other numbers": ({"groups": np.ones((8, 8), "f8")}, "fit it again with maeast project"),
    "all of it missing": (dict.fromkeys(("mean", "weights", "groups", "numbers")), "which its arrays do not fit"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_a_file_of_another_program_is_one_line_that_names_it(tmp_path, changes, message):
    path = tmp_path / PROJECTION_NAME
    whitening_of(CONFIG).save(tmp_path)
    arrays = load_file(path) | {f"whitening.{name}": array for name, array in changes.items()}
    save_file(
        {name: array for name, array in arrays.items() if array is not None}, path, {"readout": '{"whiten": true}'}
    )
    with pytest.raises(ValueError, match=f"{PROJECTION_NAME}: ") as raised:
        read_projection(tmp_path, CONFIG)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_encoder_whitens_as_the_arrays_say_and_its_time_steps_are_not_changed(make_encoder, clips):
    encoder = make_encoder()
    projection = whitening_of(encoder.config)
    encoder.use_projection(projection)
    plain, white = encoder.embed(clips), encoder.embed(clips, readout=WHITE)
    np.testing.assert_allclose(white, projection.whitening.apply(plain.numpy()), atol=1e-5)
    together = encoder.embed_readouts(clips, [Readout(), WHITE])
    assert torch.equal(together[0], plain)
    assert torch.equal(together[1], white)
    one = encoder.embed(clips[:1], readout=WHITE)
    torch.testing.assert_close(one, white[:1], atol=1e-5, rtol=1e-4)  # numbers up to 300: random weights, few vectors


def test_components_are_those_of_whitened_vectors(make_encoder, clips):
    encoder = make_encoder()
    whitening = whitening_of(encoder.config).whitening
    white = whitening.apply(random_vectors(256, 100))
    projection, _ = fit_projection([white], WHITE, 20, whitening)
    encoder.use_projection(projection)
    short = encoder.embed(clips, readout=replace(WHITE, dims=7))
    expected = whitening.apply(encoder.embed(clips).numpy()) @ projection.rows[:7].T
    np.testing.assert_allclose(short, expected, atol=1e-4)


def test_gradients_pass_a_whitening(make_encoder, clips):
    encoder = make_encoder().train().requires_grad_(True)
    encoder.use_projection(whitening_of(encoder.config))
    encoder.embed(clips[:1], readout=WHITE).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.network.encoder.parameters())


def test_a_whitening_only_is_one_for_the_full_readout():
    whitening = whitening_of(CONFIG).whitening
    assert Projection.whitening_only(whitening, Readout(pool="mean_max", dims=3)).readout == Readout(
        pool="mean_max", whiten=True
    )

"""The projection that a checkpoint may store: how it is fitted, its file, and files that are refused."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from projections import projection_of, random_vectors
from safetensors.numpy import load_file, save_file
from small import small_config

from maeast_upstream import Readout
from maeast_upstream.checkpoint import PROJECTION_NAME, fit_projection
from maeast_upstream.checkpoint.projection import Projection, read_projection
from maeast_upstream.config import EncoderConfig
from maeast_upstream.data.reduction import leading_components, moments

CONFIG = EncoderConfig(model=small_config())
"""Scene embeddings of 256 numbers."""


def test_components_are_those_of_a_singular_value_decomposition_whatever_the_blocks():
    vectors = random_vectors(12, 60)
    _, values, expected = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    components, squares = leading_components(moments([vectors]).products, 5)
    np.testing.assert_allclose(np.abs(components @ expected[:5].T), np.eye(5), atol=1e-9)
    np.testing.assert_allclose(squares, values**2, rtol=1e-9)
    assert (np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1) > 0).all()
    for parts in (2, 7, 60):
        others, _ = leading_components(moments(np.array_split(vectors, parts)).products, 5)
        np.testing.assert_allclose(others, components, atol=1e-9)


def test_a_stored_component_is_near_the_fitted_one_and_fewer_are_the_first_of_more():
    vectors = random_vectors(256, 400)
    projection, shares = fit_projection([vectors], Readout(), 20)
    fewer, _ = fit_projection([vectors], Readout(), 8)
    weighted = vectors / vectors.std(axis=0)
    exact = leading_components(moments([weighted]).products, 20)[0] / vectors.std(axis=0)
    lengths = np.linalg.norm(projection.rows, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((projection.rows * exact).sum(axis=1) / lengths).min() > 0.999
    assert np.array_equal(fewer.components, projection.components[:8])
    assert shares.shape == (20,)
    assert (np.diff(shares) > 0).all()
    assert 0 < shares[0] < shares[-1] <= 1


def test_a_number_that_varies_much_does_not_take_all_components():
    vectors = random_vectors(256, 400)
    louder = vectors * np.where(np.arange(256) < 8, 100, 1).astype(np.float32)
    projection, _ = fit_projection([vectors], Readout(), 20)
    other, _ = fit_projection(np.array_split(louder, 3), Readout(), 20)
    short, same = vectors @ projection.rows.T, louder @ other.rows.T
    assert ((short * same).sum(axis=1) / np.linalg.norm(short, axis=1) / np.linalg.norm(same, axis=1)).min() > 0.999
    sizes = [(vectors.std(axis=0) ** 2).sum(), ((projection.weights * vectors.std(axis=0)) ** 2).sum()]
    np.testing.assert_allclose(sizes[1], sizes[0], rtol=1e-3)


def test_a_number_that_hardly_varies_has_no_weight():
    vectors = random_vectors(16, 60)
    vectors[:, 3], vectors[:, 7] = 5, 5 + 1e-5 * vectors[:, 7]
    projection, _ = fit_projection([vectors], Readout(), 4)
    assert np.flatnonzero(projection.weights == 0).tolist() == [3, 7]
    assert np.isfinite(projection.rows).all()
    products = projection.weights * vectors.std(axis=0)
    np.testing.assert_allclose(np.delete(products, [3, 7]), products[0], rtol=1e-4)


def test_vectors_that_lie_in_too_few_directions_are_refused():
    flat = random_vectors(3, 50) @ np.eye(3, 16, dtype=np.float32)
    with pytest.raises(ValueError, match="lie in 3 directions only; expected at least 4"):
        fit_projection([flat], Readout(), 4)
    with pytest.raises(ValueError, match="lie in 0 directions"):
        fit_projection([np.zeros((5, 16), np.float32)], Readout(), 1)
    with pytest.raises(ValueError, match="no vectors"):
        fit_projection([], Readout(), 1)


def test_a_file_gives_back_what_was_stored(tmp_path):
    projection = projection_of(CONFIG)
    projection.save(tmp_path)
    found = read_projection(tmp_path, CONFIG)
    assert (found.readout, found.digest, found.shape) == (Readout(), projection.digest, (20, 256))
    for name in ("components", "scales", "weights"):
        assert np.array_equal(getattr(found, name), getattr(projection, name))
    assert [path.name for path in tmp_path.iterdir()] == [PROJECTION_NAME]
    assert (tmp_path / PROJECTION_NAME).stat().st_size < 20 * 256 + 4 * 20 + 4 * 256 + 400
    assert read_projection(tmp_path / "nowhere", CONFIG) is None


def test_another_projection_has_another_digest():
    digests = [
        projection_of(CONFIG).digest,
        projection_of(CONFIG, dims=19).digest,
        projection_of(CONFIG, seed=1).digest,
        projection_of(CONFIG, Readout(layer=1)).digest,
    ]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("readout", "message"),
    [
        (Readout(dims=21), "dims must be at most 20, which the projection has, got 21"),
        (Readout(layer=2, dims=4), "dims 4 of layer 2, .* was fitted for layer last, .* fit another one with maeast"),
        (Readout(pool="mean_std", dims=4), "was fitted for layer last, mel concat, pool mean, hop native"),
    ],
)
def test_a_checkpoint_s_own_readout_must_fit_its_projection(tmp_path, readout, message):
    projection_of(CONFIG).save(tmp_path)
    assert read_projection(tmp_path, replace(CONFIG, readout=Readout(dims=20))).shape == (20, 256)
    with pytest.raises(ValueError, match=message):
        read_projection(tmp_path, replace(CONFIG, readout=readout))
    (tmp_path / PROJECTION_NAME).unlink()
    with pytest.raises(ValueError, match="the checkpoint stores no projection; leave dims out, or fit one"):
        read_projection(tmp_path, replace(CONFIG, readout=Readout(dims=4)))


def changed(**changes):
    def write(path):
        arrays = load_file(path)
        save_file({name: array for name, array in {**arrays, **changes}.items() if array is not None}, path, METADATA)

    return write


def described(text):
    def write(path):
        save_file(load_file(path), path, {"readout": text})

    return write


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def with_long_header(path):
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


METADATA = {"readout": json.dumps(Readout().to_dict())}
BAD = {
    "NaN in the scales": (changed(scales=np.full(20, np.nan, "f4")), "not of length 1"),
    "infinite scales": (changed(scales=np.full(20, np.inf, "f4")), "not of length 1"),
    "huge scales": (changed(scales=np.full(20, 1e30, "f4")), "not of length 1"),
    "zeros": (changed(components=np.zeros((20, 256), "i1")), "not of length 1"),
    "another width": (changed(components=np.ones((20, 255), "i1")), "shape 20x255; expected 1 to 256 of length 256"),
    "too many rows": (changed(components=np.ones((257, 256), "i1")), "shape 257x256; expected 1 to 256"),
    "no rows": (changed(components=np.ones((0, 256), "i1")), "shape 0x256"),
    "a matrix of scales": (changed(scales=np.ones((20, 1), "f4")), "scales of shape"),
    "three dimensions": (changed(components=np.ones((2, 10, 256), "i1")), "which no projection has"),
    "many numbers": (changed(components=np.zeros((1 << 12, 1 << 12), "i1")), "which no projection has"),
    "other numbers": (changed(components=np.ones((20, 256), "f2")), "expected {'components': 'I8'"),
    "a missing tensor": (changed(scales=None), "expected {'components': 'I8'"),
    "another tensor": (changed(more=np.ones(3, "f4")), "expected {'components': 'I8'"),
    "NaN in the weights": (changed(weights=np.full(256, np.nan, "f4")), "weights that are not 256 numbers from 0"),
    "huge weights": (changed(weights=np.full(256, 1e30, "f4")), "weights that are not 256 numbers from 0"),
    "negative weights": (changed(weights=np.full(256, -1, "f4")), "weights that are not 256 numbers from 0"),
    "too few weights": (changed(weights=np.ones(3, "f4")), "weights that are not 256 numbers from 0"),
    "no weights": (changed(weights=None), "expected {'components': 'I8'"),
    "no readout": (described("null"), "readout must be a mapping"),
    "no JSON": (described("{"), "projection.safetensors: "),
    "deep JSON": (described("[" * 100_000), "projection.safetensors: "),
    "an unknown setting": (described('{"width": 3}'), "readout has unknown key 'width'"),
    "a readout with dims": (described('{"dims": 3}'), "without dims"),
    "a layer that is not there": (described('{"layer": 4}'), "expected one of the model"),
    "a cut file": (cut, "not a safetensors file"),
    "a long header": (with_long_header, "header has"),
    "a folder": (as_folder, "a folder, pipe or device"),
    "a pipe": (as_pipe, "a folder, pipe or device"),
}


@pytest.mark.parametrize(("write", "message"), BAD.values(), ids=BAD)
def test_a_file_of_another_program_is_one_line_that_names_it(tmp_path, write, message):
    projection_of(CONFIG).save(tmp_path)
    write(tmp_path / PROJECTION_NAME)
    with pytest.raises(ValueError, match=f"{PROJECTION_NAME}: ") as raised:
        read_projection(tmp_path, CONFIG)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert "\n" not in str(raised.value)


def test_a_projection_in_memory_is_checked_too():
    good = projection_of(CONFIG)
    good.check(CONFIG)
    with pytest.raises(ValueError, match="of length 512"):
        Projection(Readout(pool="mean_max"), good.components, good.scales, good.weights).check(CONFIG)

import base64

import numpy as np
import pytest

from maeast_upstream.data.reduction import Reduction, principal_components

VECTORS = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) @ np.eye(3, 8, dtype=np.float32)


def test_vectors_in_a_subspace_are_kept_by_as_many_components():
    reduction, share = principal_components([VECTORS[:20], VECTORS[20:]], 3)
    assert share == pytest.approx(1)
    np.testing.assert_allclose(reduction.restore(reduction.apply(VECTORS)), VECTORS, atol=1e-5)


def test_components_are_those_of_numpy_whatever_the_blocks():
    vectors = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    expected = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    one, share = principal_components([vectors], 2)
    other, _ = principal_components(np.array_split(vectors, 7), 2)
    np.testing.assert_allclose(np.abs(one.components), np.abs(expected[2][:2]), atol=1e-6)
    np.testing.assert_allclose(one.components, other.components, atol=1e-6)
    assert share == pytest.approx((expected[1][:2] ** 2).sum() / (expected[1] ** 2).sum())


def test_components_survive_the_metadata():
    reduction, _ = principal_components([VECTORS], 2)
    np.testing.assert_array_equal(Reduction.from_text(reduction.to_text(), 2).components, reduction.components)


NOT_COMPONENTS = {
    "nothing": "",
    "text": "no base64!",
    "bytes": base64.b64encode(b"\xff" * 100),
    "too few": Reduction(np.eye(2, dtype="f4")).to_text(),
    "NaN": Reduction(np.full((3, 4), np.nan, "f4")).to_text(),
    "float64": Reduction(np.eye(3)).to_text(),
}


@pytest.mark.parametrize("text", NOT_COMPONENTS.values(), ids=NOT_COMPONENTS)
def test_other_metadata_are_one_line(text):
    with pytest.raises(ValueError, match="principal components"):
        Reduction.from_text(text, 3)


def test_zeros_have_components_too():
    assert principal_components([np.zeros((4, 3), np.float32)], 2)[1] == 1
    with pytest.raises(ValueError, match="no vectors"):
        principal_components([], 2)
    with pytest.raises(ValueError, match="too large"):
        principal_components([np.full((2, 2), np.inf)], 1)

import numpy as np
import pytest

import maeast_upstream.similarity.pairs as pairs_module
from maeast_upstream.similarity import bounds
from maeast_upstream.similarity.groups import Groups
from maeast_upstream.similarity.pairs import SimilarPairs


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def vectors_like_audio(rows, width, seed=0):
    """Vectors of a decreasing spectrum around a common mean, as embeddings are; a tenth of them has a copy nearby."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1) ** -0.7
    vectors = (rng.standard_normal((rows, width)) + 0.5) * scale
    copies = rows // 10
    vectors[rows // 2 : rows // 2 + copies] = vectors[:copies] + 0.05 * scale * rng.standard_normal((copies, width))
    return unit(vectors)


def never(rows, others):
    return np.zeros(len(rows), bool)


def search(vectors, threshold, excluded=never):
    groups = Groups(len(vectors))
    pairs = SimilarPairs(vectors, threshold, groups, excluded)
    pairs.join(np.arange(len(vectors)))
    return groups, pairs


def plain(vectors, threshold):
    """The groups of a product of all pairs."""
    groups = Groups(len(vectors))
    groups.join(*np.nonzero(vectors.astype(np.float64) @ vectors.T.astype(np.float64) >= threshold))
    return groups


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(bounds, "BLOCK_ROWS", 64)
    monkeypatch.setattr(bounds, "SAMPLE_ROWS", 100)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99, -0.3])
@pytest.mark.parametrize("width", [3, 40, 300])
def test_groups_are_those_of_all_pairs(small_blocks, threshold, width):
    vectors = vectors_like_audio(700, width)
    found, expected = search(vectors, threshold)[0].members(), plain(vectors, threshold).members()
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected]


def test_noise_that_no_direction_sums_up_is_searched_exactly(small_blocks):
    vectors = unit(np.random.default_rng(0).standard_normal((500, 64)))
    vectors[400:450] = unit(vectors[:50] + 0.02 * np.random.default_rng(1).standard_normal((50, 64)))
    members = search(vectors, 0.9)[0].members()
    assert [rows.tolist() for rows in members] == [rows.tolist() for rows in plain(vectors, 0.9).members()]


def test_coordinates_bound_cosines_from_above():
    vectors = vectors_like_audio(300, 200)
    coordinates = bounds.coordinates_of(vectors, np.arange(300), 0.9)
    excess = coordinates @ coordinates.T - vectors @ vectors.T
    assert coordinates.shape[1] < 200
    assert excess.min() > -pairs_module.ROUNDING / 2


def test_pairs_shown_are_the_nearest_to_the_threshold(small_blocks):
    vectors = vectors_like_audio(400, 20)
    groups, pairs = search(vectors, 0.95)
    cosines = vectors @ vectors.T
    for (similarity, first, second), is_above in ((pairs.above, True), (pairs.below, False)):
        assert ((similarity >= 0.95) == is_above).all()
        assert (np.diff(np.abs(similarity - 0.95)) >= 0).all()
        assert (first < second).all()
        assert similarity == pytest.approx(cosines[first, second], abs=1e-5)
    group = groups.of(np.arange(400))
    between = np.where(np.triu(group[:, None] != group, 1), cosines, -1)
    nearest = np.unravel_index(np.argsort(between, axis=None)[: -len(pairs.below[0]) // 2 : -1], between.shape)
    assert set(zip(*map(np.ndarray.tolist, nearest), strict=True)) <= set(
        zip(first.tolist(), second.tolist(), strict=True)
    )


def test_equal_vectors_are_joined_without_comparing_all_pairs(small_blocks, monkeypatch):
    compared = []
    similarities = SimilarPairs._similarities

    def counted(self, block, other, first, second):
        compared.append(len(first))
        return similarities(self, block, other, first, second)

    monkeypatch.setattr(SimilarPairs, "_similarities", counted)
    vectors = np.tile(unit(np.ones((1, 30))), (5000, 1))
    (group,) = search(vectors, 0.99)[0].members()
    assert len(group) == 5000
    assert sum(compared) < 5000 * 64 * 2  # each block with the first one; all pairs would be 12 million


def test_excluded_pairs_and_vectors_of_zeros_are_not_joined(small_blocks):
    vectors = np.tile(unit(np.ones((1, 30))), (200, 1))
    vectors[150:] = 0
    groups, pairs = search(vectors, -1, lambda rows, others: (rows < 100) & (others < 100))
    assert pairs.zero_vectors == 50
    assert [len(group) for group in groups.members()] == [150]  # each of the 50 others joins all
    groups, _ = search(vectors[:100], 0.9, lambda rows, others: np.ones(len(rows), bool))
    assert groups.members() == []

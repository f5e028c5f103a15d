import numpy as np
import pytest

from maeast_upstream.similarity.nearest import Nearest

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(1500, 24)).astype(np.float32)
QUERIES = RNG.normal(size=(3, 24)).astype(np.float32)


def plain(rows, query, k):
    """The slow, obvious search."""
    rows = rows.astype(np.float64)
    scores = [float(row @ query / max(np.linalg.norm(row) * np.linalg.norm(query), 1e-30)) for row in rows]
    return sorted(range(len(rows)), key=lambda row: (-round(scores[row], 6), row))[:k]


def search(blocks, queries, k):
    nearest = Nearest(queries, k)
    for first, block in blocks:
        nearest.add(first, block)
    return nearest.result()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_nearest_rows_are_those_of_the_plain_search(dtype):
    rows = (ROWS * 30).astype(dtype)
    found, similarities = search([(0, rows)], QUERIES, 7)
    for query, numbers, values in zip(QUERIES, found, similarities, strict=True):
        assert numbers.tolist() == plain(rows, query, 7)
        lengths = np.linalg.norm(rows[numbers].astype(float), axis=1) * np.linalg.norm(query)
        np.testing.assert_allclose(values, rows[numbers].astype(float) @ query / lengths, atol=1e-6)


@pytest.mark.parametrize("length", [1e-38, 1e-25, 1e-17, 1e17])
def test_short_and_long_rows_have_the_same_cosines(length):
    _, similarities = search([(0, ROWS)], QUERIES, 5)
    _, scaled = search([(0, ROWS * np.float32(length))], QUERIES, 5)
    np.testing.assert_allclose(scaled, similarities, atol=1e-6)


def test_blocks_may_come_in_any_order():
    blocks = [(first, ROWS[first : first + 100]) for first in range(0, 1500, 100)]
    one, other = search(blocks, QUERIES, 20), search(blocks[::-1], QUERIES, 20)
    np.testing.assert_array_equal(one, other)


def test_equal_rows_come_in_the_order_of_the_table():
    found, similarities = search([(4, np.ones((4, 2), "f4")), (0, np.ones((4, 2), "f4"))], np.ones((1, 2)), 5)
    assert found[0].tolist() == [0, 1, 2, 3, 4]
    assert similarities[0] == pytest.approx(1)


def test_k_beyond_the_table_gives_all_rows_and_a_row_of_zeros_is_similar_to_nothing():
    found, similarities = search([(0, np.float32([[0, 0], [-1, 0]]))], np.ones((1, 2)), 9)
    assert found[0].tolist() == [0, 1]
    assert similarities[0].tolist() == pytest.approx([0, -(0.5**0.5)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(value):
    rows = np.ones((600, 2), np.float32)
    rows[555, 1] = value
    with pytest.raises(ValueError, match="row 1555 "):
        search([(1000, rows)], np.ones((1, 2)), 1)


@pytest.mark.parametrize(("queries", "k"), [(np.zeros((1, 2)), 1), (np.full((1, 2), np.nan), 1), (np.ones((1, 2)), 0)])
def test_queries_without_direction_and_k_of_none_are_refused(queries, k):
    with pytest.raises(ValueError, match=r"direction|at least 1"):
        Nearest(queries, k)

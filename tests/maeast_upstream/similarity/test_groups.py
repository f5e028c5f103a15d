import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from maeast_upstream.similarity.groups import Groups


def test_groups_are_the_connected_components():
    rng = np.random.default_rng(0)
    for rows, edges in ((1, 0), (50, 20), (1000, 700), (1000, 5000)):
        groups = Groups(rows)
        first, second = rng.integers(0, rows, (2, edges))
        for half in np.array_split(np.arange(edges), 2):
            groups.join(first[half], second[half])
        expected = connected_components(coo_matrix((np.ones(edges), (first, second)), shape=(rows, rows)))[1]
        found = groups.of(np.arange(rows))
        assert len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(expected)) == len(set(found))


def test_a_chain_is_one_group_in_the_order_of_its_rows():
    groups = Groups(100_001)
    groups.join(np.arange(1, 100_000), np.arange(99_999))
    (members,) = groups.members()
    assert members.tolist() == list(range(100_000))

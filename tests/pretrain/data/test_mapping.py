import itertools

import pytest

from pretrain.data.mapping import AHEAD, mapping


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_and_do_not_pile_up_before_they_are_read(workers):
    asked = itertools.count()
    with mapping(workers) as apply:
        results = iter(apply(str, asked))
        assert [next(results) for _ in range(30)] == [str(number) for number in range(30)]
        assert next(asked) <= 30 + AHEAD * workers + 1

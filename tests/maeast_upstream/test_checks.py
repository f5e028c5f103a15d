from dataclasses import dataclass

import numpy as np
import pytest

from maeast_upstream.checks import check_numbers, check_plain, quote


@dataclass
class Settings:
    count: int = 1
    rate: float = 0.5
    limit: float | None = None
    layer: int | str = "last"
    name: str = "x"
    on: bool = True


NO_NUMBERS = [float("nan"), float("inf"), True, None, "1", [1], 10**30, 1j]


@pytest.mark.parametrize("field", ["count", "rate"])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_finite_number_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        check_numbers(Settings(**{field: value}))


@pytest.mark.parametrize("values", [{"count": 1.5}, {"limit": float("nan")}, {"layer": True}, {"layer": 2.0}])
def test_the_kind_of_a_number_is_that_of_its_field(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        check_numbers(Settings(**values))


@pytest.mark.parametrize("values", [{"count": -3}, {"rate": 2}, {"limit": 1.5}, {"layer": 3}, {"count": np.int64(4)}])
def test_numbers_pass(values):
    check_numbers(Settings(**values), count=(-5, 5))


def test_limits_are_named():
    with pytest.raises(ValueError, match="count must be at most 5, got 6"):
        check_numbers(Settings(count=6), count=(1, 5))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        check_numbers(Settings(count=0), count=(1, 5))


def test_a_value_in_a_message_is_short_whatever_it_is():
    shared = ["x" * 10**6]
    for _ in range(60):
        shared = [shared, shared]
    for value in (shared, 10**5000, b"x" * 10**6, {"x" * 10**6: shared}, tuple(range(10**6)), -(10**30)):
        assert len(quote(value)) < 500
    assert [quote(value) for value in ("a", 3, None, [1], 2.5)] == ["'a'", "3", "None", "[1]", "2.5"]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, "x", None, True]}, [], "text"])
def test_plain_data_passes(value):
    check_plain("value", value)


@pytest.mark.parametrize("value", [[float("nan")], object(), {1: {2: {3: {4: {5: 6}}}}}, [10**30]])
def test_other_data_does_not(value):
    with pytest.raises(ValueError, match="value"):
        check_plain("value", value)

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maeast_upstream.data.windows import Windows


def test_the_last_window_ends_at_the_end_of_the_clip():
    windows = Windows(1.0, overlap=0.25)
    assert list(windows.bounds(40_000)) == [(0, 16_000), (12_000, 28_000), (24_000, 40_000)]
    assert list(windows.bounds(30_000)) == [(0, 16_000), (12_000, 28_000), (14_000, 30_000)]
    assert list(windows.bounds(28_000)) == [(0, 16_000), (12_000, 28_000)]


@pytest.mark.parametrize("samples", [1, 15_999, 16_000])
def test_a_clip_that_is_not_longer_than_a_window_is_one_window(samples):
    assert list(Windows(1.0).bounds(samples)) == [(0, samples)]


@given(st.integers(1, 200_000), st.floats(0.025, 3), st.floats(0, 0.99))
def test_windows_cover_a_clip_without_gaps_and_have_one_length(samples, seconds, share):
    overlap = share * seconds
    try:
        windows = Windows(seconds, overlap)
    except ValueError:
        return
    found = list(windows.bounds(samples))
    assert found[0][0] == 0
    assert found[-1][1] == samples
    assert {end - start for start, end in found} == {min(samples, windows.samples)}
    for before, after in itertools.pairwise(found):
        assert before[0] < after[0] <= before[1]
        assert after[0] - before[0] == windows.step or after == found[-1]


@pytest.mark.parametrize(
    ("seconds", "overlap", "message"),
    [
        (0, 0, "window must be 0.025 to"),
        (float("nan"), 0, "window must be a number"),
        (True, 0, "window must be a number"),
        ("5", 0, "window must be a number"),
        (5, 5, "overlap must be at least 0 and, for windows of 5 s, at most 4.99 s, got 5"),
        (5, -0.5, "overlap must be at least 0"),
        (5, float("inf"), "overlap must be a number"),
    ],
)
def test_impossible_windows_are_refused(seconds, overlap, message):
    with pytest.raises(ValueError, match=message):
        Windows(seconds, overlap)

from hypothesis import given
from hypothesis import strategies as st

from maeast_upstream.time_grid import window_ranges, window_starts


@given(st.integers(1, 600), st.integers(1, 40))
def test_every_step_comes_from_the_window_with_the_nearest_centre(steps, half):
    length = min(2 * half, steps)
    starts = window_starts(steps, length)
    assert starts[0] == 0
    assert starts[-1] + length == steps
    assert starts[:-1] == [i * (length // 2) for i in range(len(starts) - 1)]
    ranges = window_ranges(starts, steps, length)
    taken = [window for window, (first, last) in enumerate(ranges) for _ in range(first, last)]
    assert len(taken) == steps
    for step, window in enumerate(taken):
        distances = [abs(step - (start + (length - 1) / 2)) for start in starts]
        assert window == distances.index(min(distances))  # index gives the earlier one of a tie

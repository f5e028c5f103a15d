"""How long audio is cut into overlapping windows of time steps, and which window each step is taken from."""

import itertools


def window_starts(steps: int, length: int) -> list[int]:
    """First steps of windows of ``length`` (even) over ``steps`` time steps: every length / 2, the last one moved back.

    Fewer steps than ``length`` give one window.
    """
    if steps <= length:
        return [0]
    starts = list(range(0, steps - length, length // 2))
    return [*starts, steps - length]


def window_ranges(starts: list[int], steps: int, length: int) -> list[tuple[int, int]]:
    """For each window the steps (first, one past the last) that are taken from it.

    A step is taken from the window whose centre, start + (length - 1) / 2, is nearest; ties go to the earlier one.
    """
    cuts = [(one + other + length - 1) // 2 + 1 for one, other in itertools.pairwise(starts)]
    return list(zip([0, *cuts], [*cuts, steps], strict=True))

"""Clips drawn at random, each in proportion to its weight."""

import numpy as np


def clip_weights(kinds: np.ndarray, class_balance_power: float) -> np.ndarray:
    """(clips,) how often each clip is drawn, so that a kind's share follows its number of clips to this power."""
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    weights: np.ndarray = counts[kind] ** (class_balance_power - 1.0)
    return weights


def draw_clips(weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count,) numbers of clips, each drawn in proportion to its weight."""
    return draw_by_sums(weights.cumsum(), count, random)


def draw_by_sums(sums: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """`draw_clips` from the running sums of the weights, which for millions of clips take longer than a draw."""
    drawn: np.ndarray = sums.searchsorted(random.random(count) * sums[-1], side="right")
    return drawn.clip(max=len(sums) - 1)

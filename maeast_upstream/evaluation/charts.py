"""Draws a comparison of systems as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.evaluation.comparison import SystemScores
from maeast_upstream.evaluation.tables import LEVEL, interval
from maeast_upstream.visualization.figures import draw_legend, drawing, drawn_name


def draw_comparison(path: Path, systems: Sequence[SystemScores], layers: Mapping[str, Sequence[float]]) -> None:
    """Draw each system's mean test accuracy with its interval and its sets as dots.

    Args:
        path: the picture to write.
        systems: one row each.
        layers: by set the valid accuracy of each layer, drawn beside the systems; may be empty.

    Raises:
        ValueError: as in `drawing`.
    """
    with drawing(path, 11 if layers else 6.5, 0.5 * len(systems) + 1.6) as figure:
        axes = figure.subplots(1, 2 if layers else 1, squeeze=False)[0]
        for number, system in enumerate(systems):
            tests = [outcome.test for outcome in system.means]
            mean, (low, high) = float(np.mean(tests)), interval(system.means)
            axes[0].plot(tests, [number] * len(tests), "o", color="C0", alpha=0.35, ms=4)
            axes[0].errorbar(mean, number, xerr=[[mean - low], [high - mean]], fmt="D", color="C3", capsize=3)
        axes[0].set_yticks(range(len(systems)), [drawn_name(system.name) for system in systems], parse_math=False)
        axes[0].set_xlabel(f"test accuracy, %: mean with its {LEVEL:.0%} interval, and each set")
        axes[0].grid(alpha=0.3, axis="x")
        if layers:
            lines = [axes[1].plot(range(1, len(each) + 1), each, lw=1.2)[0] for each in layers.values()]
            axes[1].set_xlabel("layer")
            axes[1].set_ylabel("valid accuracy, %")
            axes[1].grid(alpha=0.3)
            draw_legend(axes[1], lines, list(layers), fontsize=6, ncols=2)

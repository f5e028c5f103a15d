"""Formats a sweep as a Markdown table: means and standard deviations over the seeds, and significant differences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maeast_upstream.evaluation.tables import in_cell
from pretrain.sweep.plan import Sweep
from pretrain.sweep.scores import READOUTS

Rows = Sequence[Mapping[str, Any]]
LEVEL = 0.95
UNDECIDED = "not decided"
LOSSES = {
    "reconstruction": "reconstruction",
    "classification": "InfoNCE",
    "latent": "latent",
    "supervised": "supervised",
    "teacher": "teacher",
    "cluster": "cluster",
}
"""Losses that are shown, and their titles; all but the first two only where a run has them."""


def format_table(sweep: Sweep, rows: Rows) -> str:
    """Format one line per variant: scores with standard deviations, and differences from the first variant."""
    readouts = [readout for readout in READOUTS if readout in rows[0]]
    losses = [name for number, name in enumerate(LOSSES) if number < 2 or column(rows, name)]
    header = ["variant", "seeds", "steps", "ms per step", *(LOSSES[name] for name in losses)]
    for readout in readouts:
        header += [readout, *(f"{readout}, {group}" for group in sweep.groups)]
        header.append(f"{readout} against {next(iter(sweep.variants))} ({LEVEL:.0%} interval)")
    lines = ["| " + " | ".join(map(in_cell, header)) + " |", "|" + "---|" * len(header)]
    for variant in sweep.variants:
        of_variant = [row for row in rows if row["variant"] == variant]
        if of_variant:
            cells = [variant, str(len(of_variant)), str(of_variant[0]["steps"]), f"{smallest(of_variant, 'step_ms')}"]
            cells += [mean_text(column(of_variant, name), 3) for name in losses]
            for readout in readouts:
                cells.append(spread_text(column(of_variant, readout)))
                cells += [spread_text(group_scores(of_variant, readout, sets)) for sets in sweep.groups.values()]
                cells.append(difference_text(sweep, rows, variant, readout))
            lines.append("| " + " | ".join(map(in_cell, cells)) + " |")
    return "\n".join(lines)


def column(rows: Rows, name: str) -> list[float]:
    """The numbers in a column, without empty cells."""
    return [float(row[name]) for row in rows if row.get(name, "") != ""]


def group_scores(rows: Rows, readout: str, sets: Sequence[str]) -> list[float]:
    """The mean over a group of labelled sets for each run that is scored on all of them."""
    scores = [[row.get(f"{readout}_{name}", "") for name in sets] for row in rows]
    return [float(np.mean([float(score) for score in row])) for row in scores if "" not in row]


def smallest(rows: Rows, name: str) -> float | str:
    """The smallest number in a column; "" if it is empty."""
    return min(column(rows, name), default="")


def mean_text(values: Sequence[float], digits: int) -> str:
    """The mean as text; "" without values."""
    return f"{np.mean(values):.{digits}f}" if values else ""


def spread_text(values: Sequence[float]) -> str:
    """The mean as text, with the standard deviation if there are at least two values."""
    if len(values) < 2:
        return mean_text(values, 1)
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def difference_text(sweep: Sweep, rows: Rows, variant: str, readout: str) -> str:
    """The difference from the first variant with its interval, and whether 0 is outside of it."""
    first = next(iter(sweep.variants))
    if variant == first:
        return ""
    values = {key: column([row for row in rows if row["variant"] == key], readout) for key in sweep.variants}
    if not values[first] or not values[variant]:
        return ""
    difference = float(np.mean(values[variant]) - np.mean(values[first]))
    half = half_interval(list(values.values()), len(values[variant]), len(values[first]))
    if half is None:
        return f"{difference:+.1f}: {UNDECIDED}, one seed"
    verdict = UNDECIDED if abs(difference) <= half else "higher" if difference > 0 else "lower"
    return f"{difference:+.1f} ± {half:.1f}: {verdict}"


def half_interval(values: Sequence[Sequence[float]], first: int, second: int) -> float | None:
    """Half the width of the confidence interval of the difference of two means, by Student's t.

    The variance over the seeds is pooled over the variants, as if it were equal.

    Args:
        values: the scores of each variant.
        first: number of runs behind the first mean.
        second: number of runs behind the second mean.

    Returns:
        None if no variant has two runs.
    """
    freedom = sum(max(0, len(scores) - 1) for scores in values)
    if freedom == 0:
        return None
    from scipy.stats import t

    squares = sum(float(np.var(scores)) * len(scores) for scores in values if len(scores))
    quantile = float(t.ppf((1 + LEVEL) / 2, freedom))
    return quantile * math.sqrt(squares / freedom * (1 / first + 1 / second))

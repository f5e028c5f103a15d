"""A sweep's rows -> a Markdown table: means and spread over the seeds, and what the spread allows to say."""

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


def format_table(sweep: Sweep, rows: Rows) -> str:
    """A line for each variant; scores with the deviation over its seeds, and the difference from the first variant."""
    readouts = [readout for readout in READOUTS if readout in rows[0]]
    header = ["variant", "seeds", "steps", "ms a step", "reconstruction", "InfoNCE"]
    for readout in readouts:
        header += [readout, *(f"{readout}, {group}" for group in sweep.groups)]
        header.append(f"{readout} against {next(iter(sweep.variants))} ({LEVEL:.0%} interval)")
    lines = ["| " + " | ".join(map(in_cell, header)) + " |", "|" + "---|" * len(header)]
    for variant in sweep.variants:
        own = [row for row in rows if row["variant"] == variant]
        if own:
            cells = [variant, str(len(own)), str(own[0]["steps"]), f"{least(own, 'step_ms')}"]
            cells += [mean_text(column(own, name), 3) for name in ("reconstruction", "classification")]
            for readout in readouts:
                cells.append(spread_text(column(own, readout)))
                cells += [spread_text(group_scores(own, readout, sets)) for sets in sweep.groups.values()]
                cells.append(difference_text(sweep, rows, variant, readout))
            lines.append("| " + " | ".join(map(in_cell, cells)) + " |")
    return "\n".join(lines)


def column(rows: Rows, name: str) -> list[float]:
    """A column's numbers, without the empty."""
    return [float(row[name]) for row in rows if row[name] != ""]


def group_scores(rows: Rows, readout: str, sets: Sequence[str]) -> list[float]:
    """Each run's mean over some labelled sets, of the runs that are scored on them."""
    scores = [[row.get(f"{readout}_{name}", "") for name in sets] for row in rows]
    return [float(np.mean([float(score) for score in own])) for own in scores if "" not in own]


def least(rows: Rows, name: str) -> float | str:
    """The fastest run's."""
    return min(column(rows, name), default="")


def mean_text(values: Sequence[float], digits: int) -> str:
    """The mean, or nothing."""
    return f"{np.mean(values):.{digits}f}" if values else ""


def spread_text(values: Sequence[float]) -> str:
    """Mean and, of two seeds or more, their standard deviation."""
    if len(values) < 2:
        return mean_text(values, 1)
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def difference_text(sweep: Sweep, rows: Rows, variant: str, readout: str) -> str:
    """The difference from the first variant, its interval, and whether 0 lies outside."""
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
    """Half the interval of a difference of two means of ``first`` and ``second`` runs, by Student's t.

    The deviation over seeds is pooled over the variants, as if equal; None where no variant has two runs.
    """
    freedom = sum(max(0, len(one) - 1) for one in values)
    if freedom == 0:
        return None
    from scipy.stats import t

    squares = sum(float(np.var(one)) * len(one) for one in values if len(one))
    quantile = float(t.ppf((1 + LEVEL) / 2, freedom))
    return quantile * math.sqrt(squares / freedom * (1 / first + 1 / second))

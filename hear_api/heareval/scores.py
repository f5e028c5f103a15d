"""Reads the kit's scores and writes them as text, CSV and a chart, beside published scores of other models."""

import csv
import fnmatch
import functools
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hear_api.tasks.format import SCORES_NAME, HearTask
from maeast_upstream.data.labels import read_table
from maeast_upstream.storage.delimited import from_cell, write_csv
from maeast_upstream.storage.text import read_text
from maeast_upstream.visualization.figures import draw_legend, drawing, drawn_name

UNSCALED_METRICS = ("d_prime", "segment_1s_er")
"""Metrics that are no shares; all others are converted to per cent."""
ERROR_RATE = "segment_1s_er"
COLUMNS = ("model", "task", "metric", "score", "deviation", "head", "chooses")
"""Columns of scores.csv before those of the published models. "deviation" is the standard deviation over the folds."""


@dataclass(frozen=True)
class HearScore:
    """One metric of one model on one task."""

    model: str
    task: str
    metric: str
    value: float
    """In per cent, except for UNSCALED_METRICS."""
    std: float | None
    """Standard deviation over the folds; None for tasks without folds."""
    head: str
    """The grid from which the kit chose the head."""
    primary: bool
    """Whether this metric chooses among models; published scores are of it."""

    @property
    def published(self) -> dict[str, float]:
        """Scores of other models on the same task, by model, in per cent."""
        return published_scores(self.task) if self.primary else {}


@functools.cache
def published_rows() -> list[dict[str, str]]:
    """The rows of published.csv: HEAR's public leaderboard as of 2023-09-26, and the pages of two models."""
    text = (importlib.resources.files("hear_api.heareval") / "published.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def published_models() -> list[str]:
    """The names of the models that have published scores."""
    return [name for name in published_rows()[0] if name not in ("task", "folders")]


def published_scores(task: str) -> dict[str, float]:
    """Published scores by model for a task whose name is one of HEAR's own tasks; empty for any other."""
    for row in published_rows():
        if fnmatch.fnmatchcase(task, row["folders"]):
            return {name: float(row[name]) for name in published_models() if row[name]}
    return {}


def read_scores(model: str, task: HearTask, results: Path, head: str) -> Iterator[HearScore]:
    """Read the scores of a task, one per metric.

    Args:
        model: name of the model.
        task: the task.
        results: the folder into which the kit wrote.
        head: the grid from which the kit chose the head.
    """
    content = json.loads(read_text(results / SCORES_NAME))  # a score may be NaN
    folds = content.get("aggregated_scores")
    if "task_specific_param_grid" in task.metadata.get("evaluation_params", {}):
        head += ", grid of the task"
    for metric in task.metrics:
        unit = 1.0 if metric in UNSCALED_METRICS else 100.0
        value = folds[f"test_{metric}_mean"] if folds else content["test"][f"test_{metric}"]
        std = unit * folds[f"test_{metric}_std"] if folds else None
        yield HearScore(model, task.name, metric, unit * value, std, head, primary=metric == task.metrics[0])


def format_scores(scores: Sequence[HearScore]) -> str:
    """Format one line per score, followed by a line of published scores if there are any."""
    widths = [max(len(getattr(score, name)) for score in scores) for name in ("model", "task", "metric")]
    lines = []
    for score in scores:
        names = "  ".join(
            f"{name:{width}}" for name, width in zip((score.model, score.task, score.metric), widths, strict=True)
        )
        deviation = "" if score.std is None else f" ± {score.std:.{decimals(score)}f}"
        lines.append(f"{names}  {score.value:7.{decimals(score)}f}{deviation}  ({score.head})")
        if score.published:
            lines.append("    published: " + ", ".join(f"{name} {value:g}" for name, value in score.published.items()))
    return "\n".join(lines)


def decimals(score: HearScore) -> int:
    """Number of decimals to print."""
    return 2 if score.metric in UNSCALED_METRICS else 1


def merge_csv(path: Path, scores: Sequence[HearScore]) -> list[HearScore]:
    """Add scores to a CSV with a column for each published model; they replace rows of the same model and task.

    Returns:
        All scores that the file holds then.
    """
    new = {(score.model, score.task) for score in scores}
    merged = [*(score for score in read_csv(path) if (score.model, score.task) not in new), *scores]
    rows: list[list[object]] = [[*COLUMNS, *published_models()]]
    for score in merged:
        deviation = "" if score.std is None else f"{score.std:.4f}"
        row = [score.model, score.task, score.metric, f"{score.value:.4f}", deviation, score.head]
        published = [score.published.get(name, "") for name in published_models()]
        rows.append([*row, "yes" if score.primary else "", *published])
    write_csv(path, rows)
    return merged


def read_csv(path: Path) -> list[HearScore]:
    """Read the scores that `merge_csv` wrote; an empty list if the file does not exist.

    Raises:
        ValueError: The file is no such table.
    """
    if not path.exists():
        return []
    try:
        rows = [[from_cell(cell) for cell in row] for row in read_table(path, COLUMNS, ["deviation", "chooses"])]
        return [
            HearScore(
                model, task, metric, float(value), float(deviation) if deviation else None, head, chooses == "yes"
            )
            for model, task, metric, value, deviation, head, chooses in rows
        ]
    except ValueError as error:
        raise ValueError(f"{path}: not a table of maeast hear ({error}); move or rename it") from error


def plot_scores(path: Path, scores: Sequence[HearScore]) -> None:
    """Draw a bar per model for each task's first metric, and published scores as dots; error rates are left out."""
    shown = [score for score in scores if score.primary and score.metric != ERROR_RATE]
    models = list(dict.fromkeys(score.model for score in shown))
    rows = {task: -number for number, task in enumerate(dict.fromkeys(score.task for score in shown))}
    height = 0.8 / max(1, len(models))
    with drawing(path, 9, 1.6 + 0.35 * len(rows) * max(1, len(models))) as figure:
        axes, handles = figure.subplots(), []
        for number, model in enumerate(models):
            of_model = [score for score in shown if score.model == model]
            offsets = [rows[score.task] + 0.4 - height * (number + 0.5) for score in of_model]
            bars = axes.barh(offsets, [score.value for score in of_model], height)
            handles.append(bars)
            axes.bar_label(bars, [f"{score.value:.1f}" for score in of_model], padding=3, fontsize=8)
        for task, row in rows.items():
            values = list(published_scores(task).values())
            axes.plot(values, [row] * len(values), "o", color="black", alpha=0.4, markersize=4)
        names = [
            f"{drawn_name(task)}\n{metric}" for task, metric in {score.task: score.metric for score in shown}.items()
        ]
        axes.set_yticks(list(rows.values()), names, fontsize=8, parse_math=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("score in per cent; dots: published scores of other models")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.15)}
        draw_legend(axes, handles, models, ncols=3, frameon=False, fontsize=8, **place)

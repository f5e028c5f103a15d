"""The kit's scores as one table, the published ones beside them: text, CSV and a picture."""

import csv
import fnmatch
import functools
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hear_api.tasks.format import SCORES_NAME, Task
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.visualization.figures import drawing

AS_THEY_ARE = ("d_prime", "segment_1s_er")
"""Metrics that are no shares: all others are given in per cent."""
LOWER_IS_BETTER = "segment_1s_er"
COLUMNS = ("model", "task", "metric", "score", "deviation", "head", "chooses")
"""Of scores.csv, before those of the published models."""


@dataclass(frozen=True)
class Score:
    """One metric of one model on one task."""

    model: str
    task: str
    metric: str
    value: float
    """In per cent, except for AS_THEY_ARE."""
    deviation: float | None
    """Over the folds; None for tasks without folds."""
    head: str
    """Which heads the kit chose from."""
    first: bool
    """The metric that chooses, and that published scores are of."""

    @property
    def published(self) -> dict[str, float]:
        """Scores of other models on the same task, by model, in per cent."""
        return published_scores(self.task) if self.first else {}


@functools.cache
def published_rows() -> list[dict[str, str]]:
    """The rows of published.csv: HEAR's public leaderboard (its state of 2023-09-26), and two models' own pages."""
    text = (importlib.resources.files("hear_api.heareval") / "published.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def published_models() -> list[str]:
    """The names of the models that have published scores."""
    return [name for name in published_rows()[0] if name not in ("task", "folders")]


def published_scores(task: str) -> dict[str, float]:
    """By model, for a task with the name of one of HEAR's own; empty for any other."""
    for row in published_rows():
        if fnmatch.fnmatchcase(task, row["folders"]):
            return {name: float(row[name]) for name in published_models() if row[name]}
    return {}


def read_scores(model: str, task: Task, results: Path, head: str) -> Iterator[Score]:
    """A task's scores, one a metric, from the folder that the kit filled."""
    content = json.loads((results / SCORES_NAME).read_text(encoding="utf-8"))
    folds = content.get("aggregated_scores")
    if "task_specific_param_grid" in task.metadata.get("evaluation_params", {}):
        head += ", grid of the task"
    for metric in task.metrics:
        unit = 1.0 if metric in AS_THEY_ARE else 100.0
        value = folds[f"test_{metric}_mean"] if folds else content["test"][f"test_{metric}"]
        deviation = unit * folds[f"test_{metric}_std"] if folds else None
        yield Score(
            model,
            task.name,
            metric,
            unit * value,
            deviation,
            head,
            metric == task.metrics[0],
        )


def format_scores(scores: Sequence[Score]) -> str:
    """A line a score; where a task is a published one, a line with the others' under it."""
    widths = [max(len(getattr(score, name)) for score in scores) for name in ("model", "task", "metric")]
    lines = []
    for score in scores:
        names = "  ".join(
            f"{name:{width}}" for name, width in zip((score.model, score.task, score.metric), widths, strict=True)
        )
        deviation = "" if score.deviation is None else f" ± {score.deviation:.{digits(score)}f}"
        lines.append(f"{names}  {score.value:7.{digits(score)}f}{deviation}  ({score.head})")
        if score.published:
            lines.append("    published: " + ", ".join(f"{name} {value:g}" for name, value in score.published.items()))
    return "\n".join(lines)


def digits(score: Score) -> int:
    """Decimals worth printing."""
    return 2 if score.metric in AS_THEY_ARE else 1


def merge_csv(path: Path, scores: Sequence[Score]) -> list[Score]:
    """Write all scores, a column for each published model; earlier rows of the same model and task make way.

    Returns:
        What the file holds now.
    """
    new = {(score.model, score.task) for score in scores}
    every = [
        *(score for score in read_csv(path) if (score.model, score.task) not in new),
        *scores,
    ]
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *published_models()])
        for score in every:
            deviation = "" if score.deviation is None else f"{score.deviation:.4f}"
            row = [
                score.model,
                score.task,
                score.metric,
                f"{score.value:.4f}",
                deviation,
                score.head,
            ]
            others = [score.published.get(name, "") for name in published_models()]
            writer.writerow([*row, "yes" if score.first else "", *others])
    return every


def read_csv(path: Path) -> list[Score]:
    """The scores that `merge_csv` wrote; none where there is no such file.

    Raises:
        ValueError: something else has that name.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[row[column] for column in COLUMNS] for row in csv.DictReader(file)]
        return [
            Score(
                model,
                task,
                metric,
                float(value),
                float(deviation) if deviation else None,
                head,
                first == "yes",
            )
            for model, task, metric, value, deviation, head, first in rows
        ]
    except (KeyError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of maeast hear ({error}); move it away") from error


def draw(path: Path, scores: Sequence[Score]) -> None:
    """A bar a model for each task's first metric, published scores as dots; error rates are left out."""
    shown = [score for score in scores if score.first and score.metric != LOWER_IS_BETTER]
    models = list(dict.fromkeys(score.model for score in shown))
    places = {task: -number for number, task in enumerate(dict.fromkeys(score.task for score in shown))}
    height = 0.8 / max(1, len(models))
    with drawing(path, 9, 1.6 + 0.35 * len(places) * max(1, len(models))) as figure:
        axes = figure.subplots()
        for number, model in enumerate(models):
            own = [score for score in shown if score.model == model]
            offsets = [places[score.task] + 0.4 - height * (number + 0.5) for score in own]
            bars = axes.barh(offsets, [score.value for score in own], height, label=model)
            axes.bar_label(bars, [f"{score.value:.1f}" for score in own], padding=3, fontsize=8)
        for task, place in places.items():
            values = list(published_scores(task).values())
            axes.plot(
                values,
                [place] * len(values),
                "o",
                color="black",
                alpha=0.4,
                markersize=4,
            )
        metrics = {score.task: score.metric for score in shown}
        axes.set_yticks(
            list(places.values()),
            [f"{task}\n{metrics[task]}" for task in places],
            fontsize=8,
        )
        axes.set_xlim(0, 100)
        axes.set_xlabel("score in per cent; dots: published scores of other models")
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 1.15),
            ncols=3,
            frameon=False,
            fontsize=8,
        )

"""Trains and scores the runs of a sweep, and writes its tables."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.cli import ExitStatus
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.labelled_set import read_sets
from maeast_upstream.messages import counted
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.delimited import write_csv
from pretrain.sweep.curve import plot_curves, write_curves
from pretrain.sweep.plan import PlannedRun, Sweep
from pretrain.sweep.scores import Sets, by_key, measure_scores, read_scores, score_columns
from pretrain.sweep.table import LOSSES, format_table
from pretrain.training.run_folder import read_metrics, steps_done

logger = logging.getLogger(__name__)

SCORES_NAME = "probes.json"


def run_all(sweep: Sweep, out: Path, overrides: Sequence[str], labels: Sequence[Path], most: int) -> int:
    """Train and score what is not finished, and write the tables after each run.

    Args:
        sweep: which runs.
        out: folder for runs and tables.
        overrides: options of ``python -m pretrain`` that apply to every run.
        labels: labelled sets.
        most: stop after this many runs; below 0 for all.

    Returns:
        The exit status.

    Raises:
        ValueError: a setting, a set or a group is wrong.
    """
    planned = list(sweep.runs(out, overrides))
    sets = by_key(read_sets(labels))
    check_groups(sweep, sets)
    remaining = [run for run in planned if not finished(run, sets)]
    out.mkdir(parents=True, exist_ok=True)
    failed: dict[PlannedRun, str] = {}
    for run in remaining if most < 0 else remaining[:most]:
        try:
            if not complete(run, sets):
                return ExitStatus.INTERRUPTED
        except ValueError as error:
            logger.warning("%s, seed %d: %s", run.variant, run.seed, error)
            failed[run] = str(error)
        else:
            write_tables(out, sweep, planned, sets)
    return report(out, sweep, planned, sets, failed)


def check_groups(sweep: Sweep, sets: Sets) -> None:
    """Raise ValueError if a group names a set that --labels does not have."""
    known = [key.name for key in sets]
    for group, names in sweep.groups.items():
        if sets and (unknown := [name for name in names if name not in known]):
            raise ValueError(f"group {group!r} names {unknown[0]!r}; --labels has {', '.join(known)}")


def finished(run: PlannedRun, sets: Sets) -> bool:
    """Whether a run is trained to its end and scored on all sets."""
    return trained(run) and sets.keys() <= read_scores(Path(run.recipe.out) / SCORES_NAME).keys()


def trained(run: PlannedRun) -> bool:
    """Whether a run is trained to its end; ValueError if its last save is broken."""
    folder = Path(run.recipe.out)
    try:
        return steps_done(folder) >= run.recipe.optim.steps
    except (ValueError, TypeError, KeyError) as error:
        config = folder / "last" / "config.json"
        raise ValueError(f"{config}: no number of steps in it; remove {folder} to train the run again") from error


def complete(run: PlannedRun, sets: Sets) -> bool:
    """Train a run to its end from its last save, if there is one, and score it; False if a signal stopped it."""
    from pretrain.trainer import Trainer

    folder = Path(run.recipe.out)
    if not trained(run) and not Trainer(run.recipe).train():
        return False
    measure_scores(folder / SCORES_NAME, load_model(folder), sets)
    return True


def report(out: Path, sweep: Sweep, planned: Sequence[PlannedRun], sets: Sets, failed: dict[PlannedRun, str]) -> int:
    """Write and print the table, write the curves if the sweep has them, and return the exit status."""
    rows = write_tables(out, sweep, planned, sets)
    if rows:
        print(format_table(sweep, rows))
        if sweep.curve:
            done = [run for run in planned if finished(run, sets)]
            curves = write_curves(out / f"{sweep.name}_curve.csv", done, rows, sets)
            plot_curves(out / f"{sweep.name}_curve.png", curves)
    if len(rows) < len(planned):
        print(f"{len(rows)} of {counted(len(planned), 'run')} finished")
    for run, reason in failed.items():
        print(f"not done: {run.variant}, seed {run.seed}: {reason}", file=sys.stderr)
    if not failed:
        return ExitStatus.DONE
    return ExitStatus.PARTIAL if rows else ExitStatus.FAILED


def write_tables(out: Path, sweep: Sweep, planned: Sequence[PlannedRun], sets: Sets) -> list[dict[str, Any]]:
    """Write the finished runs as CSV and Markdown, and return the rows."""
    done = [run for run in planned if finished(run, sets)]
    scores = [read_scores(Path(run.recipe.out) / SCORES_NAME) for run in done]
    rows = [{**row_of(run), **columns} for run, columns in zip(done, score_columns(scores, sets), strict=True)]
    if rows:
        write_csv(out / f"{sweep.name}.csv", [list(rows[0]), *([row.get(name) for name in rows[0]] for row in rows)])
        with replacing(out / f"{sweep.name}.md") as part:
            part.write_text(format_table(sweep, rows) + "\n", encoding="utf-8")
    return rows


def row_of(run: PlannedRun) -> dict[str, Any]:
    """A run's row of the CSV without its scores."""
    folder = Path(run.recipe.out)
    lines = [line for line in read_metrics(folder) if "loss" in line]
    return {
        "variant": run.variant,
        "seed": run.seed,
        "run": folder.name,
        "steps": run.recipe.optim.steps,
        **seconds_of(run, lines),
        **{name: lines[-1].get(name, "") if lines else "" for name in ("loss", *LOSSES, "clip")},
    }


def seconds_of(run: PlannedRun, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of the training by its log, and milliseconds per step in the fastest line, the least disturbed one."""
    crops = run.recipe.data.usual_batch[0] * run.recipe.losses.crops
    step_seconds = [crops / line["crops_per_second"] for line in lines if line.get("crops_per_second")]
    if not step_seconds:
        return {"seconds": "", "step_ms": ""}
    steps = run.recipe.optim.steps
    return {
        "seconds": round(steps * sum(step_seconds) / len(step_seconds), 1),
        "step_ms": round(1000 * min(step_seconds), 1),
    }

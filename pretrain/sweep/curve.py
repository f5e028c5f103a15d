"""Writes and plots the losses and probe scores of a sweep's runs against time."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.checkpoint.loading import read
from maeast_upstream.checkpoint.states import read_whole
from maeast_upstream.encoder import Encoder
from maeast_upstream.messages import shortened
from maeast_upstream.storage.delimited import write_csv
from maeast_upstream.visualization.figures import draw_legend, drawing
from pretrain.sweep.plan import PlannedRun
from pretrain.sweep.scores import Sets, measure_scores, read_scores, score_columns
from pretrain.sweep.table import LOSSES
from pretrain.training import run_folder
from pretrain.training.saving import network_weights

CURVES = {
    **LOSSES,
    "plain": "plain readout, mean valid accuracy (%)",
    "rich": "rich readout, mean valid accuracy (%)",
}
"""Columns that are plotted, and their titles."""


def write_curves(
    path: Path, done: Sequence[PlannedRun], rows: Sequence[Mapping[str, Any]], sets: Sets
) -> list[dict[str, Any]]:
    """Write one row per save of each run, and return the rows.

    The seconds of a save are its steps times the smallest time per step of the variant.

    Args:
        path: the CSV.
        done: the finished runs.
        rows: the rows of the sweep's table.
        sets: labelled sets on which the saves are scored; without any, kept scores are read.
    """
    fastest = {run.variant: min(r["step_ms"] for r in rows if r["variant"] == run.variant) for run in done}
    curves, scores = [], []
    for run in done:
        folder = Path(run.recipe.out)
        losses = {line["step"]: line for line in run_folder.read_metrics(folder) if "loss" in line}
        if not (states := run_folder.states(folder)):
            raise ValueError(f"{folder}: no states/, from which the curve is made; remove the folder to train it again")
        for state in states:
            step = int(state.stem)
            row: dict[str, Any] = {"variant": run.variant, "seed": run.seed, "step": step}
            row["seconds"] = round(step * fastest[run.variant] / 1000, 2)
            row.update({name: losses.get(step, {}).get(name, "") for name in LOSSES})
            curves.append(row)
            probes = folder / f"probes_{step}.json"
            scores.append(measure_scores(probes, encoder_at(state, folder), sets) if sets else read_scores(probes))
    curves = [{**row, **columns} for row, columns in zip(curves, score_columns(scores, sets), strict=True)]
    write_csv(path, [list(curves[0]), *([row.get(name) for name in curves[0]] for row in curves)])
    return curves


def encoder_at(state: Path, folder: Path) -> Encoder:
    """The encoder of a run at a save.

    Args:
        state: the file of the save.
        folder: the run's folder.
    """
    config = read(folder / "last").config
    step = int(state.stem)
    encoder = Encoder(dataclasses.replace(config, provenance=dataclasses.replace(config.provenance, steps=step))).eval()
    try:
        encoder.network.load_state_dict(network_weights(read_whole(state)["objective"]))
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{state}: not the state of a run, or a broken one ({shortened(error)})") from error
    return encoder


def plot_curves(path: Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """Plot a panel per column, a colour per variant and a line per seed."""
    columns = {name: title for name, title in CURVES.items() if any(row.get(name, "") != "" for row in curves)}
    variants = list(dict.fromkeys(row["variant"] for row in curves))
    handles: dict[str, Any] = {}
    with drawing(path, 4.2 * len(columns), 3.6) as figure:
        for axis, (name, title) in zip(
            figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
        ):
            for number, variant in enumerate(variants):
                seeds = dict.fromkeys(row["seed"] for row in curves if row["variant"] == variant)
                for seed in seeds:
                    of_run = [row for row in curves if (row["variant"], row["seed"]) == (variant, seed)]
                    points = [(row["seconds"], row[name]) for row in of_run if row.get(name, "") != ""]
                    x, y = zip(*points, strict=True) if points else ((), ())
                    (handle,) = axis.plot(x, y, color=f"C{number}", lw=1.2)
                    handles[variant] = handle
            axis.set_title(title)
            axis.set_xlabel("seconds of training")
            axis.grid(alpha=0.3)
        draw_legend(figure, list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))

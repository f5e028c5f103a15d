"""Losses and probe scores of a sweep's runs against time: a CSV and a picture."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maeast_upstream.checkpoint.loading import read
from maeast_upstream.encoder import Encoder
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.visualization.figures import drawing
from pretrain.sweep.plan import PlannedRun
from pretrain.sweep.scores import Sets, kept_scores, read_scores, score_columns
from pretrain.training import run_folder

CURVES = {
    "reconstruction": "reconstruction",
    "classification": "InfoNCE",
    "plain": "plain readout, mean valid accuracy (%)",
    "rich": "rich readout, mean valid accuracy (%)",
}
"""Columns that are drawn, and their titles."""


def write_curves(
    path: Path, done: Sequence[PlannedRun], rows: Sequence[Mapping[str, Any]], sets: Sets
) -> list[dict[str, Any]]:
    """A row for each save of each run; its seconds are those of its steps, at the variant's fastest stretch."""
    fastest = {one.variant: min(r["step_ms"] for r in rows if r["variant"] == one.variant) for one in done}
    curves, scores = [], []
    for one in done:
        folder = Path(one.recipe.out)
        losses = {line["step"]: line for line in run_folder.read_metrics(folder) if "loss" in line}
        if not (states := run_folder.states(folder)):
            raise ValueError(f"{folder}: no states/, of which the curve is made; remove the folder to train it again")
        for state in states:
            step = int(state.stem)
            row: dict[str, Any] = {"variant": one.variant, "seed": one.seed, "step": step}
            row["seconds"] = round(step * fastest[one.variant] / 1000, 2)
            row.update({name: losses.get(step, {}).get(name, "") for name in ("reconstruction", "classification")})
            curves.append(row)
            kept = folder / f"probes_{step}.json"
            scores.append(kept_scores(kept, encoder_at(state, folder), sets) if sets else read_scores(kept))
    curves = [{**row, **own} for row, own in zip(curves, score_columns(scores, sets), strict=True)]
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(curves[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curves)
    return curves


def encoder_at(state: Path, folder: Path) -> Encoder:
    """The encoder of a run as it was at a save."""
    config = read(folder / "last").config
    step = int(state.stem)
    encoder = Encoder(dataclasses.replace(config, provenance=dataclasses.replace(config.provenance, steps=step))).eval()
    weights = torch.load(state, map_location="cpu", weights_only=True)["objective"]
    encoder.network.load_state_dict(
        {name.removeprefix("network."): value for name, value in weights.items() if name.startswith("network.")}
    )
    return encoder


def draw_curves(path: Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """A panel for each column, a colour for each variant, a line for each seed."""
    columns = {name: title for name, title in CURVES.items() if any(row.get(name, "") != "" for row in curves)}
    variants = list(dict.fromkeys(row["variant"] for row in curves))
    with drawing(path, 4.2 * len(columns), 3.6) as figure:
        for axis, (name, title) in zip(
            figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
        ):
            for number, variant in enumerate(variants):
                seeds = dict.fromkeys(row["seed"] for row in curves if row["variant"] == variant)
                for first, seed in enumerate(seeds):
                    own = [r for r in curves if (r["variant"], r["seed"]) == (variant, seed) and r.get(name, "") != ""]
                    points = [(row["seconds"], row[name]) for row in own]
                    x, y = zip(*points, strict=True) if points else ((), ())
                    axis.plot(x, y, color=f"C{number}", lw=1.2, label=variant if first == 0 else None)
            axis.set_title(title)
            axis.set_xlabel("seconds of training")
            axis.grid(alpha=0.3)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(variants))

"""``python -m pretrain.plot RUN... -o curves.png`` draws the curves of several runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import run
from maeast_upstream.messages import counted
from maeast_upstream.visualization.figures import draw_legend, drawing, drawn_name

COLUMNS = 3
HIDDEN = frozenset({"step", "bad_clips"})
"""Values that are not drawn."""


def main(argv: Sequence[str]) -> int:
    """Draw losses, learning rate, gradient norm and speed of runs: one panel per value, one colour per run."""
    parser = Parser(prog="python -m pretrain.plot", description=main.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of pretraining runs")
    parser.add_argument("-o", "--out", type=Path, default=Path("curves.png"), help="default: curves.png")
    args = parser.parse_args(argv)
    from pretrain.training.run_folder import read_metrics

    lines = {folder: read_metrics(folder) for folder in dict.fromkeys(args.runs)}
    panels = panel_names(lines)
    if not panels:
        raise ValueError(f"nothing to draw: no run has a line in its metrics yet ({', '.join(map(str, lines))})")
    rows = -(-len(panels) // COLUMNS)
    with drawing(args.out, 5 * COLUMNS, 3.2 * rows + 0.3) as figure:
        axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        handles, *_ = [draw(axis, name, lines) for axis, name in zip(axes, panels, strict=False)]
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        draw_legend(figure, handles, list(map(str, lines)), loc="outside upper center", ncols=min(len(lines), 4))
    print(f"{counted(len(panels), 'curve')} of {counted(len(lines), 'run')}: {args.out}")
    return 0


def panel_names(lines: dict[Path, list[dict[str, Any]]]) -> list[str]:
    """Names of the values to draw, the loss first; a validation loss shares the panel of its training loss."""
    names = dict.fromkeys(["loss"])
    for run_lines in lines.values():
        for line in run_lines:
            names.update(dict.fromkeys(line))
    shown = [name for name in names if name not in HIDDEN and any(name in x for rows in lines.values() for x in rows)]
    return [name for name in shown if not (name.startswith("valid_") and name.removeprefix("valid_") in shown)]


def draw(axis: Any, name: str, lines: dict[Path, list[dict[str, Any]]]) -> list[Any]:
    """Draw a panel: a line for each run, which is returned, and a dashed line for its validation."""
    handles = []
    for number, run_lines in enumerate(lines.values()):
        for key, style in ((f"valid_{name}", "--"), (name, "-")):
            points = [(line["step"], line[key]) for line in run_lines if isinstance(line.get(key), int | float)]
            # a run without this curve stays in the legend
            (handle,) = axis.plot(
                *(zip(*points, strict=True) if points else ((), ())), style, color=f"C{number}", lw=1.2
            )
        handles.append(handle)
    validated = any(f"valid_{name}" in line for run_lines in lines.values() for line in run_lines)
    title = drawn_name(name) + (" (dashed: validation)" if validated else "")
    axis.set_title(title, parse_math=False)
    axis.set_xlabel("batch")
    axis.grid(alpha=0.3)
    return handles


if __name__ == "__main__":
    raise SystemExit(run(main, sys.argv[1:]))

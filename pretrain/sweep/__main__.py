"""``python -m pretrain.sweep.__main__ configs/ablations/losses.yaml --out ablations --labels probes/*/labels.csv``.

Trains each variant with each seed and scores it: a row a run in OUT/NAME.csv; means and spread over the seeds in
OUT/NAME.md. Killed, it goes on: what is finished is not repeated, and a run goes on from its last save.
"""

import csv
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.labelled_set import read_sets
from maeast_upstream.storage.atomic import replacing
from pretrain.sweep.curve import draw_curves, write_curves
from pretrain.sweep.plan import PlannedRun, Sweep, read_sweep
from pretrain.sweep.scores import Sets, kept_scores, keyed, read_scores, score_columns
from pretrain.sweep.table import format_table
from pretrain.training.run_folder import read_metrics, steps_done

logger = logging.getLogger(__name__)

LOSSES = ("loss", "reconstruction", "classification", "clip")
SCORES_NAME = "probes.json"


def main(argv: Sequence[str]) -> int:
    """Train every variant of a recipe with every seed, and compare how well labels are read from the encoders."""
    args, overrides = build_parser().parse_known_args(list(argv))
    sweep = read_sweep(args.sweep)
    planned = list(sweep.runs(args.out, overrides))
    sets = keyed(read_sets(args.labels))
    refuse_unknown_groups(sweep, sets)
    left = [one for one in planned if not finished(one, sets)]
    args.out.mkdir(parents=True, exist_ok=True)
    failed: dict[PlannedRun, str] = {}
    for one in left if args.runs < 0 else left[: args.runs]:
        try:
            if not complete(one, sets):
                return ExitStatus.INTERRUPTED
        except ValueError as error:
            logger.warning("%s, seed %d: %s", one.variant, one.seed, error)
            failed[one] = str(error)
        else:
            write_tables(args.out, sweep, planned, sets)
    return report(args.out, sweep, planned, sets, failed)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m pretrain.sweep.__main__", description=main.__doc__)
    parser.add_argument("sweep", type=Path, help="a YAML, see configs/ablations/; any further option changes a setting")
    parser.add_argument("--out", type=Path, default=Path("ablations"), help="folder of runs and tables")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], metavar="LABELS.csv", help="as of maeast probe")
    parser.add_argument("--runs", type=int, default=-1, help="stop after so many; the same command goes on")
    return parser


def refuse_unknown_groups(sweep: Sweep, sets: Sets) -> None:
    """ValueError if a group names a set that --labels lacks."""
    known = [key.name for key in sets]
    for group, names in sweep.groups.items():
        if sets and (unknown := [name for name in names if name not in known]):
            raise ValueError(f"group {group!r} names {unknown[0]!r}; --labels has {', '.join(known)}")


def finished(one: PlannedRun, sets: Sets) -> bool:
    """Whether the run is trained to its end, and scored on all sets."""
    return trained(one) and sets.keys() <= read_scores(Path(one.recipe.out) / SCORES_NAME).keys()


def trained(one: PlannedRun) -> bool:
    """Whether the run is trained to its end; ValueError if its last save does not say."""
    folder = Path(one.recipe.out)
    try:
        return steps_done(folder) >= one.recipe.optim.steps
    except (ValueError, TypeError, KeyError) as error:
        config = folder / "last" / "config.json"
        raise ValueError(f"{config}: does not say how far the run is; remove {folder} to train it again") from error


def complete(one: PlannedRun, sets: Sets) -> bool:
    """Train the run to its end, or on from its last save, and score it; False if a signal stopped it."""
    from pretrain.trainer import Trainer

    folder = Path(one.recipe.out)
    if not trained(one) and not Trainer(one.recipe).train():
        return False
    kept_scores(folder / SCORES_NAME, load_model(folder), sets)
    return True


def report(out: Path, sweep: Sweep, planned: Sequence[PlannedRun], sets: Sets, failed: dict[PlannedRun, str]) -> int:
    """Write and show the tables, the curves too where they are asked for; the exit status."""
    rows = write_tables(out, sweep, planned, sets)
    if rows:
        print(format_table(sweep, rows))
        if sweep.curve:
            done = [one for one in planned if finished(one, sets)]
            curves = write_curves(out / f"{sweep.name}_curve.csv", done, rows, sets)
            draw_curves(out / f"{sweep.name}_curve.png", curves)
    if len(rows) < len(planned):
        print(f"{len(rows)} of {len(planned)} runs are finished")
    for one, reason in failed.items():
        print(f"not done: {one.variant}, seed {one.seed}: {reason}", file=sys.stderr)
    if not failed:
        return ExitStatus.DONE
    return ExitStatus.PARTIAL if rows else ExitStatus.FAILED


def write_tables(out: Path, sweep: Sweep, planned: Sequence[PlannedRun], sets: Sets) -> list[dict[str, Any]]:
    """The CSV and the Markdown of what is finished; its rows."""
    done = [one for one in planned if finished(one, sets)]
    scores = [read_scores(Path(one.recipe.out) / SCORES_NAME) for one in done]
    rows = [{**row_of(one), **own} for one, own in zip(done, score_columns(scores, sets), strict=True)]
    if rows:
        write_csv(out / f"{sweep.name}.csv", rows)
        with replacing(out / f"{sweep.name}.md") as part:
            part.write_text(format_table(sweep, rows) + "\n", encoding="utf-8")
    return rows


def row_of(one: PlannedRun) -> dict[str, Any]:
    """What the CSV says of a run, but its scores."""
    folder = Path(one.recipe.out)
    lines = [line for line in read_metrics(folder) if "loss" in line]
    return {
        "variant": one.variant,
        "seed": one.seed,
        "run": folder.name,
        "steps": one.recipe.optim.steps,
        **seconds_of(one, lines),
        **{name: lines[-1].get(name, "") if lines else "" for name in LOSSES},
    }


def seconds_of(one: PlannedRun, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Wall-clock of the training by its log, and of its fastest stretch a batch, which other work disturbs least."""
    crops = one.recipe.data.batch_clips * one.recipe.losses.crops
    each = [crops / line["crops_per_second"] for line in lines if line.get("crops_per_second")]
    if not each:
        return {"seconds": "", "step_ms": ""}
    steps = one.recipe.optim.steps
    return {"seconds": round(steps * sum(each) / len(each), 1), "step_ms": round(1000 * min(each), 1)}


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One row a run."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    raise SystemExit(run(main, sys.argv[1:]))

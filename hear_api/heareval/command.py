"""``maeast hear``: heareval, HEAR's evaluation kit, over a folder of tasks; its scores as one table.

The kit's two runners run as they are, each task in processes of its own; `kit_repairs` has what they need today.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from hear_api import model
from hear_api.heareval.runs import KitError, Processes, Settings, TaskRun, locked
from hear_api.heareval.scores import draw, format_scores, merge_csv, read_scores
from hear_api.tasks.format import find_tasks
from maeast_upstream import __version__
from maeast_upstream.arguments import Parser, UsageError, add_readout_options, parse_hop, parse_layer
from maeast_upstream.checkpoint.loading import resolve
from maeast_upstream.fingerprint import results_key

KIT = "heareval==2021.1.3"
NEEDED = (
    "pytorch_lightning",
    "sed_eval",
    "dcase_util",
    "intervaltree",
    "more_itertools",
    "slugify",
    "torchinfo",
    "pandas",
    "sklearn",
    "matplotlib",
)
"""What the extra `hear` brings for the kit and the picture."""
SCORES_CSV, SCORES_PNG = "scores.csv", "scores.png"


def main(argv: Sequence[str]) -> int:
    """Run HEAR's evaluation kit over a folder of tasks and print its scores."""
    args = build_parser().parse_args(argv)
    provide_kit(args.install)
    if args.install and args.tasks_dir is None:
        return 0
    if args.tasks_dir is None or args.out is None:
        raise UsageError("--tasks-dir and --out are needed (see maeast hear --help)")
    settings = settings_from(args)
    folder = model_folder(args.out.resolve(), args.checkpoint, settings)
    tasks, errors = find_tasks(args.tasks_dir)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if not tasks:
        raise ValueError(f"{args.tasks_dir}: no task that can be run")
    processors = os.cpu_count() or 1
    jobs = args.jobs or min(len(tasks), processors)
    with locked(folder) as lock:
        processes = Processes(lock, max(1, processors // jobs))
        runs = [TaskRun(task, folder, settings, processes) for task in tasks]
        done = list(run_all(runs, jobs))
    if not done:
        raise ValueError("no task ran to its end")
    head = f"{settings.grid} grid, {settings.grid_points} point{'s' if settings.grid_points > 1 else ''}"
    own = [score for run in runs if run in done for score in read_scores(folder.name, run.task, run.results, head)]
    scores = merge_csv(folder.parent / SCORES_CSV, own)
    print(format_scores(own))
    draw(folder.parent / SCORES_PNG, scores)
    print(f"embeddings: {embedding_share(done):.0f} % of {len(done)} tasks' time")
    print(f"table: {folder.parent / SCORES_CSV}, chart: {folder.parent / SCORES_PNG}")
    return 3 if errors or len(done) < len(runs) else 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="maeast hear", description=main.__doc__)
    parser.add_argument(
        "--tasks-dir",
        type=Path,
        help="folder of HEAR task folders (hear-task makes them)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for embeddings, scores and logs; what is done there is kept",
    )
    parser.add_argument(
        "--checkpoint",
        help="name, path or hub id; default: the checkpoint in the package",
    )
    parser.add_argument("--precision", help="fp32, bf16 or fp16; default: hear_api's")
    add_readout_options(parser)
    parser.add_argument(
        "--grid",
        default="default",
        choices=("default", "fast", "faster"),
        help="the kit's",
    )
    parser.add_argument(
        "--grid-points",
        type=int,
        default=8,
        help="heads that the kit trains to choose one (default: 8)",
    )
    parser.add_argument("--jobs", type=int, help="tasks at a time; default: one a processor")
    parser.add_argument(
        "--threads",
        type=int,
        help="of each task; default: 1 for heads, the fastest, and for embeddings the processors that no task has",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu"),
        help="auto: CUDA if there is one",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help=f"first pip install --no-deps {KIT}, if it is not there",
    )
    return parser


def provide_kit(install: bool) -> None:
    """Make sure that heareval and its needs are installed; with ``install`` bring heareval itself.

    Raises:
        ValueError: something is missing that may not be, or could not be, installed.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{missing[0]} is not installed: pip install 'maeast-upstream[hear]'")
    if importlib.util.find_spec("heareval") is not None:
        return
    command = [sys.executable, "-m", "pip", "install", "--no-deps", KIT]
    if not install:
        raise ValueError(
            f"heareval is not installed, and pip cannot resolve the versions that it asks for: give --install, "
            f"or run pip install --no-deps {KIT}"
        )
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"{' '.join(command[1:])} failed")


def settings_from(args: argparse.Namespace) -> Settings:
    """What the command line asks for; a checkpoint's name becomes a path, since the kit takes nothing else."""
    for name in (
        "grid_points",
        *(name for name in ("threads", "jobs") if getattr(args, name) is not None),
    ):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    options: dict[str, Any] = {"layer": None if args.layer is None else parse_layer(args.layer)}
    options |= {"mel": args.mel, "pool": args.pool, "precision": args.precision}
    options |= {"hop_ms": None if args.hop_ms is None else parse_hop(args.hop_ms) or "native"}
    return Settings(
        checkpoint=None if args.checkpoint is None else resolve(args.checkpoint).resolve(),
        options={name: value for name, value in options.items() if value is not None},
        grid=args.grid,
        grid_points=args.grid_points,
        threads=args.threads,
        device=args.device,
    )


def model_folder(out: Path, checkpoint: str | None, settings: Settings) -> Path:
    """The folder of results for these weights, this readout and these options: its name and a digest of them.

    Raises:
        ValueError: no such checkpoint, or options that it does not have.
    """
    encoder = model.load_model(str(settings.checkpoint or ""), **settings.options).encoder
    digest = results_key(encoder, options=settings.options, version=__version__)[:8]
    name = "bundled" if checkpoint is None else Path(checkpoint).stem or "checkpoint"
    return out / f"{name}-{digest}"


def run_all(runs: Sequence[TaskRun], jobs: int) -> Iterator[TaskRun]:
    """Run tasks, ``jobs`` at a time, and yield those that ran to their end; the others are told of on stderr."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run.run): run for run in runs}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                run = futures[future]
                try:
                    new = future.result()
                except KitError as error:
                    print(f"error: {error}", file=sys.stderr)
                    continue
                seconds = ", ".join(f"{part} {value:.0f} s" for part, value in run.state["seconds"].items())
                print(
                    f"{number}/{len(runs)} {run.task.name}: {seconds if new else 'done before'}",
                    file=sys.stderr,
                )
                yield run
        except BaseException:
            runs[0].processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


def embedding_share(runs: Sequence[TaskRun]) -> float:
    """Of the seconds that these tasks took, the per cent that their embeddings did."""
    seconds = [run.state["seconds"] for run in runs]
    return float(100 * sum(one["embeddings"] for one in seconds) / sum(sum(one.values()) for one in seconds))

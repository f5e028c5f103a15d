"""``maeast hear``: runs heareval, HEAR's evaluation kit, over a folder of tasks, and tabulates its scores.

The kit's two runners run unchanged, in separate processes for each task; `repairs` makes them work today.
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

from hear_api.heareval.runs import LOGS_NAME, KitError, KitSettings, Processes, TaskRun, locked
from hear_api.heareval.scores import format_scores, merge_csv, plot_scores, read_scores
from hear_api.tasks.format import find_tasks
from maeast_upstream import __version__
from maeast_upstream.arguments import Parser, UsageError, add_readout_options, parse_dims, parse_hop, parse_layer
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted, install_extra
from maeast_upstream.progress import say

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
"""Packages of the extra `hear` that the kit and the chart need."""
MAX_SHOWN_ERRORS = 5
SCORES_CSV, SCORES_PNG = "scores.csv", "scores.png"


def main(argv: Sequence[str]) -> int:
    """Run HEAR's evaluation kit over a folder of tasks and print its scores."""
    args = build_parser().parse_args(argv)
    provide_kit(args.install)
    if args.install and args.tasks_dir is None:
        return ExitStatus.DONE
    if args.tasks_dir is None or args.out is None:
        raise UsageError("--tasks-dir and --out are needed (see maeast hear --help)")
    settings = settings_from(args)
    folder = model_folder(args.out.resolve(), args.checkpoint, settings)
    tasks, errors = find_tasks(args.tasks_dir)
    for error in errors[:MAX_SHOWN_ERRORS]:
        print(f"error: {error}", file=sys.stderr)
    if len(errors) > MAX_SHOWN_ERRORS:
        print(f"{counted(len(errors), 'such error')} in all; the first {MAX_SHOWN_ERRORS} are above", file=sys.stderr)
    if not tasks:
        raise ValueError(f"{args.tasks_dir}: no task that can be run")
    processors = os.cpu_count() or 1
    jobs = args.jobs or min(len(tasks), processors)
    say(f"{counted(len(tasks), 'task')}, up to {jobs} at a time, in {folder}; their logs are in {folder / LOGS_NAME}")
    with locked(folder) as lock:
        processes = Processes(lock, max(1, processors // jobs))
        runs = [TaskRun(task, folder, settings, processes) for task in tasks]
        done = list(run_all(runs, jobs))
    if not done:
        raise ValueError("no task ran to its end")
    head = f"{settings.grid} grid, {counted(settings.grid_points, 'point')}"
    new = [score for run in runs if run in done for score in read_scores(folder.name, run.task, run.results, head)]
    scores = merge_csv(folder.parent / SCORES_CSV, new)
    print(format_scores(new))
    plot_scores(folder.parent / SCORES_PNG, scores)
    print(f"embeddings took {embedding_share(done):.0f} % of the time of {counted(len(done), 'task')}")
    print(f"table: {folder.parent / SCORES_CSV}, chart: {folder.parent / SCORES_PNG}")
    return ExitStatus.PARTIAL if errors or len(done) < len(runs) else ExitStatus.DONE


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(prog="maeast hear", description=main.__doc__)
    parser.add_argument("--tasks-dir", type=Path, help="folder of HEAR task folders, as maeast hear-task writes them")
    parser.add_argument(
        "--out", type=Path, help="folder for embeddings, scores and logs; finished work in it is not repeated"
    )
    parser.add_argument("--checkpoint", help="name, path or hub id; default: the checkpoint in the package")
    parser.add_argument("--precision", help="fp32, bf16 or fp16; default: hear_api's")
    add_readout_options(parser)
    parser.add_argument(
        "--grid",
        default="default",
        choices=("default", "fast", "faster"),
        help="the kit's grid of heads (default: default)",
    )
    parser.add_argument(
        "--grid-points",
        type=int,
        default=8,
        help="number of heads of the grid that the kit trains to choose one (default: 8)",
    )
    parser.add_argument("--jobs", type=int, help="number of tasks run at the same time; default: one per processor")
    parser.add_argument(
        "--threads",
        type=int,
        help="threads of each task; default: 1 for heads, which is fastest; its share of the processors for embeddings",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu"), help="auto: CUDA if there is one")
    parser.add_argument(
        "--install", action="store_true", help=f"first pip install --no-deps {KIT}, if it is not installed"
    )
    return parser


def provide_kit(install: bool) -> None:
    """Check that heareval and its dependencies are installed; with ``install``, install heareval itself.

    Raises:
        ValueError: A package is missing, or heareval could not be installed.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{missing[0]} is not installed: {install_extra('hear')}")
    if importlib.util.find_spec("heareval") is not None:
        return
    command = [sys.executable, "-m", "pip", "install", "--no-deps", KIT]
    if not install:
        raise ValueError(
            f"heareval is not installed, and pip cannot resolve the versions that it requires: give --install, "
            f"or run pip install --no-deps {KIT}"
        )
    if subprocess.run(command, check=False).returncode:
        raise ValueError(f"{' '.join(command[1:])} failed")


def settings_from(args: argparse.Namespace) -> KitSettings:
    """The settings of the command line; a checkpoint's name becomes a path, which is all that the kit accepts."""
    for name in ("grid_points", "threads", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    from maeast_upstream.checkpoint.places import resolve

    options: dict[str, Any] = {"layer": None if args.layer is None else parse_layer(args.layer)}
    options |= {"mel": args.mel, "pool": args.pool, "precision": args.precision}
    options |= {"hop_ms": None if args.hop_ms is None else parse_hop(args.hop_ms) or "native"}
    options |= {"dims": None if args.dims is None else parse_dims(args.dims) or "full", "whiten": args.whiten}
    return KitSettings(
        checkpoint=None if args.checkpoint is None else resolve(args.checkpoint).resolve(),
        options={name: value for name, value in options.items() if value is not None},
        grid=args.grid,
        grid_points=args.grid_points,
        threads=args.threads,
        device=args.device,
    )


def model_folder(out: Path, checkpoint: str | None, settings: KitSettings) -> Path:
    """The folder of results for a checkpoint's weights and readout and for these options, named by a digest of them.

    Raises:
        ValueError: The checkpoint does not exist, or does not support an option.
    """
    from hear_api import model
    from maeast_upstream.fingerprint import results_key

    loaded = model.load_model(str(settings.checkpoint or ""), **settings.options)
    digest = results_key(loaded.encoder, loaded.scene, options=settings.options, version=__version__)[:8]
    name = "bundled" if checkpoint is None else Path(checkpoint).stem or "checkpoint"
    return out / f"{name}-{digest}"


def run_all(runs: Sequence[TaskRun], jobs: int) -> Iterator[TaskRun]:
    """Run tasks, ``jobs`` at a time, and yield those that succeeded; errors of the others go to stderr."""
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
                say(f"{number}/{len(runs)} {run.task.name}: {seconds if new else 'finished before'}")
                yield run
        except BaseException:
            runs[0].processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


def embedding_share(runs: Sequence[TaskRun]) -> float:
    """Share of the tasks' time that their embeddings took, in per cent."""
    seconds = [run.state["seconds"] for run in runs]
    return float(100 * sum(parts["embeddings"] for parts in seconds) / sum(sum(parts.values()) for parts in seconds))

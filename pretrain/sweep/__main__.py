"""``python -m pretrain.sweep configs/ablations/losses.yaml --out ablations --labels probes/*/labels.csv``.

Trains each variant with each seed and scores it. OUT/NAME.csv holds one row per run, OUT/NAME.md the means and standard
deviations over the seeds. Resumable: run the same command again; finished runs are not repeated, and an unfinished one
continues from its last save.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream import cli
from maeast_upstream.arguments import Parser


def main(argv: Sequence[str]) -> int:
    """Train every variant of a recipe with every seed, and compare linear probes on the frozen encoders."""
    args, overrides = build_parser().parse_known_args(list(argv))
    from pretrain.sweep.plan import read_sweep
    from pretrain.sweep.runs import run_all

    return run_all(read_sweep(args.sweep), args.out, overrides, args.labels, args.runs)


def build_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(prog="python -m pretrain.sweep", description=main.__doc__)
    parser.add_argument(
        "sweep", type=Path, help="YAML of a sweep, see configs/ablations/; further options change settings of every run"
    )
    parser.add_argument("--out", type=Path, default=Path("ablations"), help="folder for runs and tables")
    parser.add_argument(
        "--labels", type=Path, nargs="*", default=[], metavar="LABELS.csv", help="labelled sets as for maeast probe"
    )
    parser.add_argument("--runs", type=int, default=-1, help="stop after this many runs; the same command continues")
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    raise SystemExit(cli.run(main, sys.argv[1:]))

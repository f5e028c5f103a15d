"""``python -m pretrain.pack CORPUS -o FOLDER`` decodes a corpus once; see `maeast_upstream.data.packed`."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.data.packed import TABLE_NAME
from maeast_upstream.messages import counted
from pretrain.data.packing import pack


def main(argv: Sequence[str]) -> int:
    """Decode a corpus into 16 kHz int16 samples in one file, for the fastest pretraining and exact resume.

    Returns:
        0 if everything is packed, 3 if some files could not be decoded, which the log names.
    """
    parser = Parser(
        prog="python -m pretrain.pack",
        description="Decode a corpus once into a file of 16 kHz samples: the fastest pretraining, with exact resume.",
    )
    parser.add_argument(
        "corpus",
        type=Path,
        help="folder of audio files or *.tar shards, or a .tsv manifest",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder to create; a recipe refers to it as data.packed",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes; default: one per core",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.workers < 0:
        raise ValueError(f"--workers must be at least 0, got {args.workers}")
    if (args.out / TABLE_NAME).exists():
        raise ValueError(f"{args.out} holds a packed corpus already; give another --out, or remove it")
    failures: list[str] = []
    packed = pack(args.corpus, args.out, args.workers, failures)
    print(f"{args.out}: {counted(len(packed.lengths), 'clip')}, {packed.hours:.2f} h; {len(failures)} left out")
    return ExitStatus.PARTIAL if failures else ExitStatus.DONE


if __name__ == "__main__":
    raise SystemExit(run(main))

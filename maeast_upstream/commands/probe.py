"""``maeast probe``: train linear classifiers on frozen embeddings and report their accuracy."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.arguments import Parser, add_model_options, add_readout_options, parse_seed
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.features import (
    describe,
    logmel_features,
    randomised,
    readout_grid,
    refuse_other_readouts,
)
from maeast_upstream.evaluation.labelled_set import LabelledSet, read_sets
from maeast_upstream.evaluation.linear_probe import (
    Score,
    Table,
    best_readout,
    mean_valid,
    probe_features,
    probe_sets,
)
from maeast_upstream.evaluation.test_log import READINGS_HELP, Reading, begin_log, log_readings
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.storage.atomic import refuse_unwritable, replacing


def main(argv: Sequence[str]) -> int:
    """Score frozen embeddings on labelled clips with logistic regression."""
    args = build_parser().parse_args(argv)
    if args.out is not None:
        refuse_unwritable(args.out)
    sets = read_sets(args.labels)
    begin_log(args.readings)
    table: Table
    digest = ""
    if args.features == "logmel":
        refuse_options_of_models(args)
        table = {"mean and deviation": [probe_features(one, logmel_features) for one in sets]}
    else:
        encoder = load_model(args.checkpoint, args.device, args.precision)
        if args.features == "random":
            encoder = randomised(encoder, args.seed)
        digest = fingerprint(encoder)
        own = encoder.config.readout
        readouts = readout_grid(own, args.layer, args.mel, args.pool, args.hop_ms)
        refuse_other_readouts(encoder, readouts)
        scores = probe_sets(sets, encoder, readouts)
        table = {describe(readout): row for readout, row in scores.items()}
    best = best_readout(table)
    if args.readings is not None:
        names = {"model": args.checkpoint or "bundled", "random": "random weights", "logmel": "log-mel"}
        read = {"system": names[args.features], "digest": digest, "readout": best}
        log_readings(args.readings, [Reading(**read, set=one.name, clips=one.shape[-1]) for one in sets])
    if len(table) > 1:
        print(format_readouts(table), end="\n\n")
    print(f"{args.features}: {best}")
    print(format_scores(sets, table[best]))
    if args.out is not None:
        write_scores(args.out, args.features, sets, table)
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="maeast probe",
        description=f"{main.__doc__} Comma-separated lists for --layer, --mel, --pool and --hop-ms "
        "try all combinations and choose one on valid.",
    )
    parser.add_argument(
        "labels",
        nargs="+",
        type=Path,
        metavar="LABELS.csv",
        help="columns path (relative to the file), label, split (train, valid or test)",
    )
    parser.add_argument(
        "--features",
        choices=("model", "random", "logmel"),
        default="model",
        help="the checkpoint's embeddings (default); those of the same network with random "
        "weights; mean and deviation of the log-mel",
    )
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument("--seed", type=parse_seed, default=0, help="of the random weights; default 0")
    parser.add_argument("-o", "--out", type=Path, help="write the scores as CSV, too")
    parser.add_argument("--readings", type=Path, metavar="CSV", help=READINGS_HELP)
    return parser


def refuse_options_of_models(args: argparse.Namespace) -> None:
    """ValueError for an option that the log-mel would not heed."""
    for name in ("checkpoint", "layer", "mel", "pool", "hop_ms"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} says nothing about --features logmel: leave it out")


def format_readouts(table: Table) -> str:
    """The mean valid accuracy of every readout, the best on top."""
    width = max(map(len, table))
    ranked = sorted(table, key=lambda readout: -mean_valid(table[readout]))
    lines = [f"{readout:{width}}  {mean_valid(table[readout]):10.1f}" for readout in ranked]
    return "\n".join([f"{'readout':{width}}  mean valid", *lines])


def format_scores(sets: Sequence[LabelledSet], scores: Sequence[Score]) -> str:
    """A line for each set, then the means."""
    width = max(len("mean"), *(len(one.name) for one in sets))
    lines = [f"{'set':{width}}  classes  train/valid/test  chance  valid   test"]
    for one, score in zip(sets, scores, strict=True):
        classes, *sizes = one.shape
        lines.append(
            f"{one.name:{width}}  {classes:7}  {'/'.join(map(str, sizes)):>16}"
            f"  {100 / classes:6.1f}  {score.valid:5.1f}  {score.test:5.1f}"
        )
    test = float(np.mean([score.test for score in scores]))
    lines.append(f"{'mean':{width + 35}}  {mean_valid(scores):5.1f}  {test:5.1f}")
    return "\n".join(lines)


def write_scores(path: Path, features: str, sets: Sequence[LabelledSet], table: Table) -> None:
    """Every readout's valid accuracies as CSV, in per cent; test and C of the chosen one only."""
    best = best_readout(table)
    header = "features,readout,set,classes,train,valid,test,chance,valid_accuracy,test_accuracy,C"
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        for readout, scores in table.items():
            for one, score in zip(sets, scores, strict=True):
                chance = f"{100 / one.shape[0]:.2f}"
                chosen = [f"{score.test:.2f}", score.c] if readout == best else ["", ""]
                row = [
                    features,
                    readout,
                    one.name,
                    *one.shape,
                    chance,
                    f"{score.valid:.2f}",
                ]
                writer.writerow([*row, *chosen])

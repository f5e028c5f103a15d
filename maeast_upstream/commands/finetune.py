"""``maeast finetune``: an encoder trained on with labels, as the paper evaluates: mean pooling and a linear head."""

import csv
import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.arguments import Parser, add_model_options, parse_seed
from maeast_upstream.encoder import load_model
from maeast_upstream.evaluation.finetune import Settings, TunedScore, finetune
from maeast_upstream.evaluation.labelled_set import LabelledSet, read_sets
from maeast_upstream.evaluation.test_log import READINGS_HELP, Reading, begin_log, log_readings
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.storage.atomic import replacing

SCORES_NAME = "scores.csv"


def main(argv: Sequence[str]) -> int:
    """Fine-tune an encoder on labelled clips; the epoch that is best on valid reads test once."""
    args = build_parser().parse_args(argv)
    if args.precision not in ("fp32", "bf16"):
        raise ValueError(f"fine-tuning takes precision fp32 or bf16, got {args.precision!r}")
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    sets = read_sets(args.labels)
    begin_log(args.readings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args.out.mkdir(parents=True, exist_ok=True)
    scores = finetune(sets, settings, args.out, args.device)
    if args.readings is not None:
        log_readings(args.readings, readings_of(sets, settings))
    print(format_tuned(sets, scores))
    write_tuned(args.out / SCORES_NAME, sets, scores)
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="maeast finetune",
        description=f"{main.__doc__} Each set in a folder of its own; the same command started again goes on.",
    )
    parser.add_argument("labels", nargs="+", type=Path, metavar="LABELS.csv", help="columns path, label, split")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of states, encoders and scores.csv")
    add_model_options(parser)
    own = Settings()
    numbers: dict[str, tuple[Callable[[str], Any], str]] = {
        "epochs": (int, "passes over train"),
        "batch_clips": (int, "clips of an update"),
        "lr": (float, "peak learning rate of the head"),
        "encoder_lr": (float, "of the encoder's last layer; 0 trains the head only"),
        "layer_decay": (float, "each layer learns at this share of the rate of the one above"),
        "weight_decay": (float, "of AdamW"),
        "mixup": (float, "alpha of mixup; 0 for none"),
        "mask_frames": (int, "SpecAugment: the longest hidden stretch, in frames of 10 ms; 0 for none"),
        "mask_mels": (int, "SpecAugment: the widest hidden band of mel bins; 0 for none"),
        "seed": (parse_seed, "of the head, the order and the augmentation"),
    }
    for name, (kind, text) in numbers.items():
        default = getattr(own, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, help=f"{text}; default {default}"
        )
    parser.add_argument("--readings", type=Path, metavar="CSV", help=READINGS_HELP)
    parser.add_argument("--positions", choices=("sinusoid", "none"), help="of the tokens; default: the checkpoint's")
    return parser


def readings_of(sets: Sequence[LabelledSet], settings: Settings) -> list[Reading]:
    """For the log; the weights are those that the fine-tuning began with."""
    system = f"{settings.checkpoint or 'bundled'}, fine-tuned {settings.epochs} epochs"
    digest = fingerprint(load_model(settings.checkpoint))
    usual = Settings()
    changed = [field.name for field in fields(Settings) if getattr(settings, field.name) != getattr(usual, field.name)]
    own = [f"{name} {getattr(settings, name)}" for name in changed if name not in ("checkpoint", "epochs")]
    readout = ", ".join(["mean of tokens, linear head", *own])
    return [Reading(system=system, digest=digest, readout=readout, set=one.name, clips=one.shape[-1]) for one in sets]


def format_tuned(sets: Sequence[LabelledSet], scores: dict[str, TunedScore]) -> str:
    """A line for each set, then the means."""
    width = max(len("mean"), *(len(one.name) for one in sets))
    lines = [f"{'set':{width}}  classes  train/valid/test  epoch  valid   test"]
    for one in sets:
        classes, *sizes = one.shape
        score, clips = scores[one.name], "/".join(map(str, sizes))
        lines.append(
            f"{one.name:{width}}  {classes:7}  {clips:>16}  {score.epoch:5}  {score.valid:5.1f}  {score.test:5.1f}"
        )
    valid, test = (np.mean([getattr(score, split) for score in scores.values()]) for split in ("valid", "test"))
    lines.append(f"{'mean':{width + 34}}  {valid:5.1f}  {test:5.1f}")
    return "\n".join(lines)


def write_tuned(path: Path, sets: Sequence[LabelledSet], scores: dict[str, TunedScore]) -> None:
    """As CSV, in per cent."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "classes", "train", "valid", "test", "epoch", "valid_accuracy", "test_accuracy"])
        for one in sets:
            score = scores[one.name]
            writer.writerow([one.name, *one.shape, score.epoch, f"{score.valid:.2f}", f"{score.test:.2f}"])

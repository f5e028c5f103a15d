"""``maeast finetune``: fine-tunes an encoder on labelled clips, from the linear probe's classifier on."""

import argparse
import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from maeast_upstream.arguments import (
    Parser,
    add_column_options,
    add_model_options,
    add_readout_options,
    columns_from,
    parse_seed,
)
from maeast_upstream.cli import ExitStatus
from maeast_upstream.evaluation.finetune_config import ADAPTER_RATE, ENCODER_RATE, FinetuneConfig

SCORES_NAME = "scores.csv"


def main(argv: Sequence[str]) -> int:
    """Fine-tune an encoder on labelled clips, from the probe on; the best epoch on valid is scored once on test."""
    args = build_parser().parse_args(argv)
    config = config_from(args)
    from maeast_upstream.classification.folder import ENCODER_NAME
    from maeast_upstream.evaluation.finetune import finetune
    from maeast_upstream.evaluation.labelled_set import read_sets
    from maeast_upstream.evaluation.tables import format_tuned, write_tuned
    from maeast_upstream.storage.atomic import refuse_to_replace_inputs

    refuse_to_replace_inputs([args.out / SCORES_NAME], args.labels)
    sets = read_sets(args.labels, columns_from(args))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    args.out.mkdir(parents=True, exist_ok=True)
    scores = finetune(sets, config, args.out, args.device)
    print(format_tuned(sets, scores))
    write_tuned(args.out / SCORES_NAME, sets, scores)
    for each in sets:
        folder = shlex.quote(str(args.out / each.name))
        print(f"classifier: {args.out / each.name}; try maeast predict FOLDER -m {folder} -o found.parquet")
        name = args.out if len(sets) == 1 else args.out / each.name  # load_model finds the encoder in either
        print(f"encoder: {args.out / each.name / ENCODER_NAME}; try maeast embed --checkpoint {shlex.quote(str(name))}")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast finetune",
        description=f"{main.__doc__} Each set gets a folder. Resumable: run the same command again and it continues.",
    )
    parser.add_argument("labels", nargs="+", type=Path, metavar="LABELS.csv", help="columns path, label, split")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for states, encoders and scores.csv")
    add_column_options(parser, "path", "label", "split")
    add_model_options(parser, precisions="fp32 (default) or bf16")
    add_readout_options(parser)
    numbers: dict[str, tuple[Callable[[str], Any], str]] = {
        "epochs": (int, "most passes over train"),
        "patience": (int, "epochs without a better valid accuracy after which training ends; 0 for never"),
        "batch_clips": (int, "clips per update"),
        "folds": (
            int,
            "parts of train, whose clips are classified by heads that are fitted on the others; the probe is fitted "
            "again after each epoch. 0: one head is trained with the encoder",
        ),
        "lr": (float, "peak learning rate of the head, where it is trained: --folds 0 or --encoder-lr 0"),
        "encoder_lr": (float, "peak learning rate of the encoder's last layer; 0 trains the head only"),
        "layer_decay": (float, "each layer's learning rate is that of the layer above times this"),
        "weight_decay": (float, "weight decay of AdamW on the encoder; the head has the probe's penalty"),
        "freeze": (int, "so many of the first layers, and the patch projection, keep their weights"),
        "lora": (int, "rank of low-rank adapters, trained in place of the encoder's weights; 0 for none"),
        "mixup": (float, "alpha of mixup; 0 for none"),
        "mask_frames": (int, "SpecAugment: longest hidden segment, in frames of 10 ms; 0 for none"),
        "mask_mels": (int, "SpecAugment: widest hidden band of mel bins; 0 for none"),
        "seed": (parse_seed, "seed of the adapters, the order of the clips and the augmentation"),
    }
    default = FinetuneConfig()
    shown = {"encoder_lr": f"{ENCODER_RATE:g}, with --lora {ADAPTER_RATE:g}"}
    for name, (kind, text) in numbers.items():
        value = getattr(default, name)
        about = f"{text}; default {shown.get(name, value)}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value, help=about)
    parser.add_argument(
        "--positions", choices=("sinusoid", "none"), help="position embeddings of the tokens; default: the checkpoint's"
    )
    return parser


def config_from(args: argparse.Namespace) -> FinetuneConfig:
    """Return the options as a config.

    Raises:
        ValueError: a value is out of range.
    """
    return FinetuneConfig(**{field.name: getattr(args, field.name) for field in fields(FinetuneConfig)})

"""``maeast predict``: labels clips or windows of recordings by a classifier that ``maeast fit`` saved; resumable."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import (
    ENGINE_PRECISIONS,
    Parser,
    UsageError,
    add_column_options,
    add_window_options,
    windows_from,
)
from maeast_upstream.cli import ExitStatus
from maeast_upstream.commands.jobs import add_job_options, check_numbers, embed_inputs, start_engine, weights_unset
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when they are needed, so that --help does not import torch
    from maeast_upstream.checkpoint.identity import Identity
    from maeast_upstream.classification.classifier import Classifier
    from maeast_upstream.classification.prediction_table import PredictionSpec
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.engines.names import Choice
    from maeast_upstream.extract.outputs import Output

FORMATS = ("parquet", "csv", "raven", "audacity")


def main(argv: Sequence[str]) -> int:
    """Label audio files, or windows of them, by a classifier that maeast fit, probe or finetune saved."""
    args = build_parser().parse_args(argv)
    check_numbers(args)
    from maeast_upstream.classification.classifier import Classifier
    from maeast_upstream.classification.prediction import table_among
    from maeast_upstream.extract.annotation_files import ENDINGS
    from maeast_upstream.extract.outputs import output_at
    from maeast_upstream.storage.atomic import refuse_to_replace_inputs

    spec = spec_from(args)
    windows_from(args)  # refuses what is wrong before anything is read
    if args.merge and args.format not in ENDINGS:
        raise UsageError(f"--merge goes with --format {' or '.join(ENDINGS)}")
    output = replace(output_at(args.out, args.format, FORMATS), merge=args.merge)
    table = table_among(args.inputs)
    if table is not None:
        refuse_audio_options(args, table)
    output.refuse_as_input(args.inputs)
    if table is not None and output.format == "parquet":
        refuse_to_replace_inputs([Path(args.out), Path(args.out) / "part.parquet"], [table])
    if is_of_events(args):
        if table is not None:
            raise UsageError(f"events need audio, and {table} is a table of embeddings")
        from maeast_upstream.commands.predict_events import predict_events

        return predict_events(args, output)
    classifier = Classifier.load(args.model)
    if table is not None:
        return predict_from_table(args, classifier, table, spec, output)
    return predict_audio(args, classifier, spec, output)


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast predict",
        description=f"{main.__doc__} Resumable: run the same command again after an interruption and it continues.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="what maeast embed takes: audio files, folders, manifests, tars, - for a list of paths on stdin; or one "
        "table that maeast embed wrote, so that nothing is embedded twice",
    )
    add_column_options(parser, "path")
    parser.add_argument(
        "-m", "--model", required=True, type=Path, help="folder that maeast fit, probe or finetune saved"
    )
    parser.add_argument(
        "-o", "--out", required=True, help="OUT.parquet, OUT.csv, or a folder for parquet parts or annotations"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of a folder: parquet parts (default); or, for each recording in which something was found, a selection "
        "table of Raven or a label track of Audacity",
    )
    parser.add_argument(
        "--merge", action="store_true", help="with raven and audacity: join adjacent windows of a label to one"
    )
    parser.add_argument(
        "--events",
        action="store_true",
        help="onsets and offsets of events, which a model that was fitted on events gives in any case",
    )
    parser.add_argument(
        "--top", type=int, metavar="N", help="keep the N best labels of a window; default 1; multi-label: all"
    )
    parser.add_argument(
        "--threshold",
        type=parse_threshold,
        metavar="P",
        help="keep labels of at least this probability, or `chosen` for those that fit chose for each label on valid; "
        "default: no limit; multi-label: chosen",
    )
    parser.add_argument(
        "--all-scores", action="store_true", help="one row per window, with the probability of every label as a column"
    )
    add_window_options(parser)
    parser.add_argument("--checkpoint", help="where the classifier's checkpoint is now, if it was moved")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ..., or auto: CUDA if there is one; default: cpu")
    parser.add_argument("--precision", default="fp32", help=ENGINE_PRECISIONS)
    add_job_options(parser)
    return parser


def refuse_audio_options(args: argparse.Namespace, table: Path) -> None:
    """Raise UsageError if an option is given that a table of embeddings has no use for."""
    for option in ("window", "relative_to", "checkpoint", "device", "batch_seconds", "ray"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} goes with audio, and {table} is a table of embeddings")


def is_of_events(args: argparse.Namespace) -> bool:
    """Whether the model finds events with onsets and offsets; UsageError if --events expects that and it does not."""
    from maeast_upstream.classification.folder import read_kind

    kind = read_kind(args.model)
    if args.events and kind != "events":
        raise UsageError(f"--events needs a model that maeast fit trained on events, and {args.model} is one of {kind}")
    return kind == "events"


def parse_threshold(text: str) -> float | str:
    """Parse the value of --threshold."""
    try:
        return text if text == "chosen" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a probability or chosen, got {text!r}") from None


def spec_from(args: argparse.Namespace) -> "PredictionSpec":
    """Return which labels the options keep; UsageError if one is out of range."""
    from maeast_upstream.classification.prediction_table import PredictionSpec

    try:
        return PredictionSpec(top=args.top, threshold=args.threshold, all_scores=args.all_scores)
    except ValueError as error:
        raise UsageError(str(error)) from error


def predict_audio(args: argparse.Namespace, classifier: "Classifier", spec: "PredictionSpec", output: "Output") -> int:
    """Embed and label the inputs; return the exit status."""
    from maeast_upstream.classification.prediction import embedding_spec
    from maeast_upstream.classification.prediction_table import PredictionTableBuilder
    from maeast_upstream.engines.names import check_names
    from maeast_upstream.extract.job import Job
    from maeast_upstream.extract.survey import Survey
    from maeast_upstream.fingerprint import load_same, place_of

    survey = Survey(args.inputs, args.path_column, args.relative_to)
    check_names(args.engine, args.precision)
    embedding = embedding_spec(classifier, windows_from(args))

    def job_of(model: "Encoder | Identity", engine: "Choice") -> Job:
        return Job(
            survey,
            output,
            model,
            embedding,
            engine,
            args.checkpoint or classifier.checkpoint,
            args.max_hours,
            make_builder=partial(PredictionTableBuilder, classifier, embedding, spec),
            more_settings=settings_of(classifier, spec),
        )

    def start() -> "tuple[Encoder, Choice]":
        with weights_unset():
            encoder = load_same(classifier.checkpoint, classifier.fingerprint, args.checkpoint, args.device)
        embedding.width(encoder.config)
        return encoder, start_engine(args, encoder, embedding, survey, output)

    checkpoint = place_of(classifier.checkpoint, args.checkpoint)
    return embed_inputs(args, survey, output, checkpoint, job_of, start)


def settings_of(classifier: "Classifier", spec: "PredictionSpec") -> dict[str, object]:
    """Return what determines the rows beside the embeddings; their kind tells them from rows of embeddings."""
    from dataclasses import asdict

    return {"kind": "predictions", "classifier": classifier.digest(), "prediction": asdict(spec)}


def predict_from_table(
    args: argparse.Namespace, classifier: "Classifier", table: Path, spec: "PredictionSpec", output: "Output"
) -> int:
    """Label the rows of a table of embeddings; return the exit status."""
    import json

    from maeast_upstream.classification.prediction import embedding_spec, open_table, predict_table
    from maeast_upstream.classification.prediction_table import PredictionTableBuilder
    from maeast_upstream.data.embeddings import METADATA_KEY
    from maeast_upstream.data.relative_names import ROOT_KEY
    from maeast_upstream.storage.settings import refuse_changes

    opened = open_table(classifier, table)
    origin = opened.origin
    embedding = embedding_spec(classifier, origin.windows if origin else None)
    settings = {"table": os.path.abspath(table), **settings_of(classifier, spec), "format": output.format}  # noqa: PTH100
    settings |= {ROOT_KEY: opened.root or None}
    builder = PredictionTableBuilder(classifier, embedding, spec, {METADATA_KEY: json.dumps({"settings": settings})})
    store = output.store
    if not args.force and (output.whole() or (output.is_folder and store.begun)):
        raise ValueError(f"{output.address} exists already; give --force to replace it, or another name")
    if store.begun and not args.force:
        before = {"table": None, **store.settings()}
        refuse_changes(before, settings, store.storage.shown(), "give another -o, or --force to start again")
    if store.begun or args.force:
        output.remove()  # labelling is quick, so that nothing is continued
    rows: list[int] = []
    with store.locked():
        store.open(settings)
        try:
            for number, found in enumerate(predict_table(builder, table)):
                with store.write(number, builder.schema) as (writer, report):
                    writer.write_table(found)
                    report.clips, report.rows = 1, len(found)
                rows.append(len(found))
            if not rows:
                raise ValueError(f"{table}: no rows to label")
            output.finish(builder.schema)
        except BaseException:
            store.remove()
            raise
    print(f"{counted(sum(rows), 'row')}: {output.address}")
    return ExitStatus.DONE

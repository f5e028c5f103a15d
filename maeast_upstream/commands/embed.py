"""``maeast embed``: turns audio into a table of embeddings; an interrupted run continues when it is started again."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maeast_upstream.arguments import (
    ENGINE_PRECISIONS,
    Parser,
    UsageError,
    add_column_options,
    add_model_options,
    add_readout_options,
    add_window_options,
    parse_dims,
    parse_layer,
    readout_from,
    windows_from,
)
from maeast_upstream.commands.jobs import add_job_options, check_numbers, embed_inputs, start_engine, weights_unset
from maeast_upstream.progress import say
from maeast_upstream.readout import Readout, describe

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import torch
    from maeast_upstream.checkpoint.identity import Identity
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.engines.names import Choice
    from maeast_upstream.extract.outputs import Output
    from maeast_upstream.extract.table import EmbeddingSpec


def main(argv: Sequence[str]) -> int:
    """Embed audio files, folders, manifests or tars into a table."""
    args = build_parser().parse_args(argv)
    check_numbers(args)
    from maeast_upstream.checkpoint import resolve
    from maeast_upstream.engines.names import check_names
    from maeast_upstream.extract.job import Job
    from maeast_upstream.extract.outputs import output_at
    from maeast_upstream.extract.survey import Survey

    output = output_at(args.out, args.format)
    output.refuse_as_input(args.inputs)
    survey = Survey(args.inputs, args.path_column, args.relative_to)
    check_names(args.engine, args.precision)
    checkpoint = resolve(args.checkpoint)

    def job_of(model: "Encoder | Identity", engine: "Choice") -> Job:
        spec = spec_from(args, model)
        return Job(survey, output, model, spec, engine, args.checkpoint or "bundled", args.max_hours)

    def start() -> "tuple[Encoder, Choice]":
        from maeast_upstream.encoder import load_model

        with weights_unset():
            encoder = load_model(checkpoint, args.device)
        spec = spec_from(args, encoder)
        spec.width(encoder.config)
        refuse_vectors(spec, output)
        for readout in spec.readouts:
            encoder.check_readout(readout)
        if spec.readouts[0].dims is not None:
            say(f"the checkpoint's projection gives vectors of {spec.readouts[0].dims} numbers")
        elif spec.dims is not None and encoder.projection is not None and encoder.projection.shape[0]:
            stored, of = encoder.projection.shape[0], describe(encoder.projection.readout)
            say(
                f"the checkpoint's projection, of {stored} numbers for {of}, cannot give {spec.dims} for this readout: "
                "the table will be reduced to its own principal components"
            )
        return encoder, start_engine(args, encoder, spec, survey, output)

    return embed_inputs(args, survey, output, checkpoint, job_of, start)


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(
        prog="maeast embed",
        description=f"{main.__doc__} Resumable: run the same command again after an interruption and it continues.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files; folders of them; manifests (.tsv, .csv with path and, for segments, start and end in "
        "seconds or start_ms and end_ms; selection tables of Raven and label tracks of Audacity, .txt); "
        "WebDataset tars; packed folders; - for a list of paths on stdin",
    )
    add_column_options(parser, "path")
    parser.add_argument(
        "-o", "--out", required=True, help="OUT.parquet, OUT.npz, or a folder for parquet parts or npy files"
    )
    parser.add_argument(
        "--format", choices=("parquet", "npz", "npy"), help="of a folder: parquet (default), or npy, one file per clip"
    )
    parser.add_argument(
        "--kind", choices=("scene", "frames"), default="scene", help="one row per clip, or one per time step"
    )
    add_model_options(parser, precisions=ENGINE_PRECISIONS)
    add_readout_options(
        parser,
        dims="length of a vector: the first N numbers of the projection that the checkpoint stores for this readout "
        "(see maeast project); where it stores none, N principal components of OUT.parquet itself, which stand in its "
        "metadata; or full",
    )
    add_window_options(parser)
    parser.add_argument(
        "--vectors",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="how the table stores the vectors: float32 (default); float16, half the size; int8 with a scale for each "
        "row, a quarter",
    )
    add_job_options(parser)
    return parser


def spec_from(args: argparse.Namespace, model: "Encoder | Identity") -> "EmbeddingSpec":
    """Return what the options ask of every clip; --layer may be a comma-separated list."""
    from maeast_upstream.extract.table import EmbeddingSpec

    default = model.config.readout
    layers = [parse_layer(text) for text in (args.layer or str(default.layer)).split(",")]
    layer = args.layer if len(layers) == 1 else None
    full = readout_from(argparse.Namespace(**{**vars(args), "layer": layer, "dims": "full"}), default)
    readouts = [full] if len(layers) == 1 else [replace(full, layer=each, whiten=bool(args.whiten)) for each in layers]
    dims = None if args.dims is None else parse_dims(args.dims)
    if args.dims is None and args.kind == "scene" and len(readouts) == 1:
        readouts = [readout_from(args, default)]
    elif dims is not None and args.kind == "scene" and has_projection(model, readouts, dims):
        readouts, dims = [replace(readouts[0], dims=dims)], None
    return EmbeddingSpec(
        kind=args.kind, readouts=tuple(readouts), vectors=args.vectors, dims=dims, windows=windows_from(args)
    )


def has_projection(model: "Encoder | Identity", readouts: Sequence[Readout], dims: int) -> bool:
    """Whether a checkpoint stores a projection to ``dims`` numbers of the only readout."""
    projection = model.projection
    return projection is not None and [projection.readout] == list(readouts) and 1 <= dims <= projection.shape[0]


def refuse_vectors(spec: "EmbeddingSpec", output: "Output") -> None:
    """Raise UsageError if the output cannot hold such vectors."""
    if spec.dims is not None and (output.is_folder or output.format != "parquet"):
        raise UsageError(f"--dims goes with one file, -o OUT.parquet, since it needs all vectors; got {output.address}")
    if spec.vectors == "int8" and output.format == "npy":
        raise UsageError("--vectors int8 goes with parquet and npz, since a file of npy has no place for its scales")

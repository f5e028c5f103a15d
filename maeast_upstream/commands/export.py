"""``maeast export``: writes a model in ONNX or OpenVINO format, for programs without this package."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError, add_readout_options, readout_from
from maeast_upstream.cli import ExitStatus
from maeast_upstream.storage.atomic import refuse_to_overwrite

if TYPE_CHECKING:
    from maeast_upstream.engines.export import ExportFormat

SUFFIXES: "dict[ExportFormat, str]" = {"onnx": ".onnx", "openvino": ".xml"}


def main(argv: Sequence[str]) -> int:
    """Write a model file that turns waveforms into embeddings, for ONNX Runtime or OpenVINO."""
    args = build_parser().parse_args(argv)
    model_format = format_of(args.out, args.format)
    if args.precision == "int8" and model_format != "openvino":
        raise UsageError(f"{args.out}: format {model_format} holds fp32 only; for int8 give a name that ends in .xml")
    refuse_to_overwrite(args.out, args.force)
    if model_format == "openvino":
        refuse_to_overwrite(args.out.with_suffix(".bin"), args.force)
    from maeast_upstream.encoder import load_model
    from maeast_upstream.engines.export import export, longest
    from maeast_upstream.progress import say

    encoder = load_model(args.checkpoint)
    readout = readout_from(args, encoder.config.readout)
    agreement = export(encoder, args.out, model_format, args.kind, readout, args.precision, on_step=say)
    compared = "largest difference from" if args.precision == "fp32" else "int8, least cosine with"
    figure = f"{agreement:.1e}" if args.precision == "fp32" else f"{agreement:.5f}"
    print(f"wrote {args.out}: {compared} torch {figure}, for clips of up to {longest(encoder):.0f} s")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast export", description=main.__doc__)
    parser.add_argument("checkpoint", nargs="?", help="name, path or hub id; default: the checkpoint in the package")
    parser.add_argument(
        "-o", "--out", required=True, type=Path, help="OUT.onnx, or OUT.xml (OUT.bin is written beside it)"
    )
    parser.add_argument("--format", choices=tuple(SUFFIXES), help="default: by the suffix of OUT")
    parser.add_argument(
        "--kind", choices=("scene", "frames"), default="scene", help="one vector per clip, or one per time step"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="of the transformer's matrix products: fp32 (default), or for OpenVINO int8, a quarter of the size",
    )
    add_readout_options(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser


def format_of(out: Path, model_format: "ExportFormat | None") -> "ExportFormat":
    """Return the format that a file's suffix says.

    Raises:
        ValueError: the suffix says none, or another than ``model_format``.
    """
    for name, suffix in SUFFIXES.items():
        if out.suffix == suffix and model_format in (None, name):
            return name
    expected = SUFFIXES[model_format] if model_format else " or ".join(SUFFIXES.values())
    raise ValueError(f"{out}: expected a name that ends in {expected}")

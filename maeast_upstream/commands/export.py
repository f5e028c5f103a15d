"""``maeast export``: write a model for other programs, in ONNX or OpenVINO format."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from maeast_upstream.arguments import Parser, add_readout_options, readout_from
from maeast_upstream.encoder import load_model
from maeast_upstream.engines.export import SUFFIXES, Format, Kind, export, longest
from maeast_upstream.storage.atomic import refuse_to_overwrite


def main(argv: Sequence[str]) -> int:
    """Write a model file that turns waveforms into embeddings, for ONNX Runtime or OpenVINO."""
    parser = Parser(prog="maeast export", description=main.__doc__)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="name, path or hub id; default: the checkpoint in the package",
    )
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=Path,
        help="OUT.onnx, or OUT.xml (OUT.bin comes beside it)",
    )
    parser.add_argument("--format", choices=get_args(Format), help="default: by the suffix of OUT")
    parser.add_argument(
        "--kind",
        choices=get_args(Kind),
        default="scene",
        help="one vector a clip, or a time step",
    )
    add_readout_options(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    args = parser.parse_args(argv)
    form = format_of(args.out, args.format)
    refuse_to_overwrite(args.out, args.force)
    if form == "openvino":
        refuse_to_overwrite(args.out.with_suffix(".bin"), args.force)
    encoder = load_model(args.checkpoint)
    readout = readout_from(args, encoder.config.readout)
    difference = export(encoder, args.out, form, args.kind, readout)
    print(f"wrote {args.out}: greatest difference from torch {difference:.1e}, clips up to {longest(encoder):.0f} s")
    return 0


def format_of(out: Path, form: Format | None) -> Format:
    """The format that a file's name says; ValueError where it says none, or another than ``form``."""
    for name in get_args(Format):
        if out.suffix == SUFFIXES[name] and form in (None, name):
            found: Format = name
            return found
    wanted = SUFFIXES[form] if form else " or ".join(SUFFIXES.values())
    raise ValueError(f"{out}: expected a name that ends in {wanted}")

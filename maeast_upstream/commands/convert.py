"""``maeast convert``: converts between the published format and our own, and reads what s3prl fine-tuned."""

from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus
from maeast_upstream.storage.atomic import refuse_to_overwrite

EXPERIMENT_SUFFIX = ".ckpt"
"""Ends the names of s3prl's checkpoints."""


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint to a published file if OUT ends in .pt, otherwise to a folder of our own format."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if (args.out is None) == (args.given_out is None):
        parser.error("give OUT once, behind the checkpoint or after -o")
    args.out = args.out or args.given_out
    refuse_to_overwrite(args.out, args.force)
    import torch

    from maeast_upstream import checkpoint

    path = Path(args.checkpoint).expanduser()
    if path.suffix == EXPERIMENT_SUFFIX and path.is_file():
        from maeast_upstream.integrations.s3prl.tuned import read_tuned

        loaded, card = read_tuned(path, args.parent), None
    else:
        if args.parent is not None:
            raise ValueError(f"--parent goes with a states-N{EXPERIMENT_SUFFIX} of s3prl, not with {args.checkpoint}")
        source = checkpoint.resolve(args.checkpoint)
        loaded = checkpoint.read(source)
        card = checkpoint.card_for_copy(source, loaded, args.out.resolve().name, loaded.projection)
    if args.out.suffix == ".pt":
        if args.half:
            raise ValueError("--half is for a folder: the published format stores float32")
        checkpoint.save_published(args.out, loaded)
    else:
        if args.out.is_file():
            raise ValueError(f"{args.out} is a file; expected the name of a folder, or a name that ends in .pt")
        if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / checkpoint.CONFIG_NAME).is_file():
            raise ValueError(f"{args.out} is a folder that holds something other than a checkpoint; give another name")
        dtype = torch.float16 if args.half else torch.float32
        checkpoint.save_state(args.out, loaded.state, loaded.config, dtype, card, loaded.projection)
    print(f"wrote {args.out}")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast convert", description=main.__doc__)
    parser.add_argument(
        "checkpoint", help="name, path or hub id; or the states-N.ckpt of an s3prl experiment that was trained with -f"
    )
    parser.add_argument("out", type=Path, nargs="?", help="FILE.pt, or a folder")
    parser.add_argument("-o", "--out", type=Path, dest="given_out", metavar="OUT", help="the same as OUT")
    parser.add_argument("--parent", help="the checkpoint that such an experiment began with, if it has moved since")
    parser.add_argument("--half", action="store_true", help="store float16 weights (folders only)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser

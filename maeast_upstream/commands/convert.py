"""``maeast convert``: between the published format and our own."""

from collections.abc import Sequence
from pathlib import Path

import torch

from maeast_upstream import checkpoint
from maeast_upstream.arguments import Parser
from maeast_upstream.storage.atomic import refuse_to_overwrite


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint: to a published file if OUT ends in .pt, else to a folder of our own format."""
    parser = Parser(prog="maeast convert", description=main.__doc__)
    parser.add_argument("checkpoint", help="name, path or hub id")
    parser.add_argument("out", type=Path, help="FILE.pt, or a folder")
    parser.add_argument("--half", action="store_true", help="store float16 weights (folders only)")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    args = parser.parse_args(argv)
    refuse_to_overwrite(args.out, args.force)
    loaded = checkpoint.read(checkpoint.resolve(args.checkpoint))
    if args.out.suffix == ".pt":
        if args.half:
            raise ValueError("--half goes with a folder: the published format is float32")
        checkpoint.save_published(args.out, loaded)
    else:
        if args.out.is_file():
            raise ValueError(f"{args.out} is a file; expected a folder's name, or a name that ends in .pt")
        if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / checkpoint.CONFIG_NAME).is_file():
            raise ValueError(f"{args.out} is a folder with other things in it; give another name")
        checkpoint.save_state(
            args.out,
            loaded.state,
            loaded.config,
            torch.float16 if args.half else torch.float32,
        )
    print(f"wrote {args.out}")
    return 0

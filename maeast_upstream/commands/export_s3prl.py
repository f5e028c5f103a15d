"""``maeast export-s3prl``: writes a checkpoint as a folder that s3prl loads from a model hub."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus


def main(argv: Sequence[str]) -> int:
    """Write a checkpoint as a folder for s3prl's --hub huggingface."""
    parser = Parser(prog="maeast export-s3prl", description=main.__doc__)
    parser.add_argument("checkpoint", help="name, path or hub id")
    parser.add_argument("out", type=Path, help="folder to write; created if it does not exist")
    parser.add_argument("--half", action="store_true", help="store float16 weights")
    args = parser.parse_args(argv)
    import torch

    from maeast_upstream import checkpoint
    from maeast_upstream.integrations.s3prl.hub_export import FILES, check_folder
    from maeast_upstream.storage.atomic import replacing_folder

    loaded = checkpoint.read(checkpoint.resolve(args.checkpoint))
    check_folder(args.out)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(args.out) as folder:
        dtype = torch.float16 if args.half else torch.float32
        checkpoint.save_state(folder, loaded.state, loaded.config, dtype, projection=loaded.projection)
        for name, text in FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
    upstream = shlex.quote(str(args.out))
    print(f"wrote {args.out}: maeast-run-downstream --hub huggingface -u {upstream} -m train -d TASK -n NAME")
    return ExitStatus.DONE

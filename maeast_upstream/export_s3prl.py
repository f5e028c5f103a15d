"""``maeast export-s3prl``: a folder that s3prl takes with ``--hub huggingface``, here or as a hub repository."""

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from maeast_upstream import checkpoint
from maeast_upstream.command import Parser

EXPERT = '''"""MAE-AST for s3prl's --hub huggingface; `maeast_upstream.load_model` takes this folder, too."""

from pathlib import Path

from maeast_upstream import expert


class UpstreamExpert(expert.UpstreamExpert):
    """The encoder whose weights lie beside this file."""

    def __init__(self, ckpt=None, model_config=None, refresh=False, **options):
        super().__init__(Path(__file__).resolve().parent, model_config, refresh, **options)
'''
REQUIREMENTS = "maeast-upstream\n"
FILES = {"expert.py": EXPERT, "requirements.txt": REQUIREMENTS}


def main(argv: Sequence[str]) -> int:
    """Write a checkpoint as a folder for s3prl's --hub huggingface."""
    parser = Parser(prog="maeast export-s3prl", description=main.__doc__)
    parser.add_argument("checkpoint", help="name, path or hub id")
    parser.add_argument("out", type=Path, help="folder, made if there is none")
    parser.add_argument("--half", action="store_true", help="store float16 weights")
    args = parser.parse_args(argv)
    loaded = checkpoint.read(checkpoint.resolve(args.checkpoint))
    check_folder(args.out)
    part = args.out.with_name(f".{args.out.name}.export")
    checkpoint.save_state(part, loaded.state, loaded.config, torch.float16 if args.half else torch.float32)
    for name, text in FILES.items():
        (part / name).write_text(text, encoding="utf-8")
    shutil.rmtree(args.out, ignore_errors=True)
    os.replace(part, args.out)
    upstream = shlex.quote(str(args.out))
    print(f"wrote {args.out}: maeast-run-downstream --hub huggingface -u {upstream} -m train -d TASK -n NAME")
    return 0


def check_folder(folder: Path) -> None:
    """ValueError unless it is new, empty or an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected the name of a folder")
    # Python's cache is there once s3prl has imported expert.py
    ours = {*FILES, checkpoint.WEIGHTS_NAME, checkpoint.CONFIG_NAME, "__pycache__"}
    others = sorted({path.name for path in folder.iterdir()} - ours) if folder.is_dir() else []
    if others:
        raise ValueError(f"{folder} is a folder with other things in it ({others[0]}); give another name")

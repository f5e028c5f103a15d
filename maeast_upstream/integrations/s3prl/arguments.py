"""Checks s3prl's command line before s3prl is imported, and completes it or reports what is missing."""

import argparse
import importlib.util
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.checkpoint import unpickle
from maeast_upstream.checkpoint.archive import check_sums, open_archive
from maeast_upstream.device import usable_device
from maeast_upstream.integrations.s3prl.configs import config_path, read_config
from maeast_upstream.integrations.s3prl.overrides import check_overrides
from maeast_upstream.integrations.s3prl.repairs import safe_globals
from maeast_upstream.messages import install_extra, shortened

MODES = ("train", "evaluate", "inference")
STATES = "states-*.ckpt"
"""File names of the checkpoints from which an experiment is resumed."""


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the arguments for s3prl's ``run_downstream``, with the path of a config after ``-c``.

    Args:
        arguments: those of the user; ``-c`` may be missing or be the name of a config in configs/superb/.

    Raises:
        ValueError: an argument with which s3prl would fail later, or end with a traceback.
    """
    args = read(arguments)
    check_device(args.device)
    if args.upstream_layer_selection is not None and not re.fullmatch(r"-?\d{1,6}", args.upstream_layer_selection):
        raise UsageError(f"-l {args.upstream_layer_selection!r}: expected the number of a layer, counted from 0")
    if args.init_ckpt:
        check_checkpoint(Path(args.init_ckpt))
    checkpoint = resumed_from(args)
    if checkpoint is not None:
        content = check_checkpoint(checkpoint)
        check_overrides(args.override, content["Config"], content["Args"].downstream)
        return list(arguments)
    for option, value in (("-u UPSTREAM", args.upstream), ("-d TASK", args.downstream)):
        if not value:
            raise UsageError(f"{option} is missing")
    if not (args.expname or args.expdir):
        raise UsageError("give the experiment a name with -n, or a folder with -p")
    check_task_name(args.downstream)
    config = find_config(args.config, args.downstream)
    check_overrides(args.override, read_config(config), args.downstream)
    return [*arguments, "-c", str(config)]


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options of s3prl that this module checks; s3prl's own parser handles the others."""
    parser = Parser(prog="maeast-run-downstream", add_help=False)
    parser.add_argument("-m", "--mode", choices=MODES, required=True)
    for short, long in (
        ("-t", "--evaluate_split"),
        ("-o", "--override"),
        ("-e", "--past_exp"),
        ("-i", "--init_ckpt"),
        ("-c", "--config"),
        ("-d", "--downstream"),
        ("-v", "--downstream_variant"),
        ("-u", "--upstream"),
        ("-k", "--upstream_ckpt"),
        ("-g", "--upstream_model_config"),
        ("-s", "--upstream_feature_selection"),
        ("-l", "--upstream_layer_selection"),
        ("-n", "--expname"),
        ("-p", "--expdir"),
    ):
        parser.add_argument(short, long)
    for short, long in (("-r", "--upstream_refresh"), ("-f", "--upstream_trainable"), ("-a", "--auto_resume")):
        parser.add_argument(short, long, action="store_true")
    parser.add_argument("--device", default="cuda")
    return parser.parse_known_args(arguments)[0]


def experiment_folder(args: argparse.Namespace) -> Path:
    """The folder to which s3prl writes."""
    return Path(args.expdir or f"result/downstream/{args.expname}")


def resumed_from(args: argparse.Namespace) -> Path | None:
    """The checkpoint from which ``-e`` or ``-a`` continues; None for a new experiment."""
    if args.past_exp and not Path(args.past_exp).is_dir():
        return Path(args.past_exp)
    folder = Path(args.past_exp) if args.past_exp else experiment_folder(args)
    states = sorted(folder.glob(STATES), key=lambda path: int(path.stem.split("-")[-1]))
    if args.past_exp and not states:
        raise ValueError(f"-e {folder}: it holds no {STATES} to continue from; leave -e out for a new experiment")
    return states[-1] if states and (args.past_exp or args.auto_resume) else None


def check_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of s3prl without its tensors; no code from the file runs.

    Raises:
        ValueError: the file is no whole checkpoint of s3prl.
    """
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: broken, or not a checkpoint of s3prl; delete it to continue from the one before")
    safe_globals()
    try:
        with open_archive(path) as archive:
            check_sums(archive)
        unpickle.load(path, ())  # in bounded memory and time
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a broken file can raise anything
        reason = shortened(str(error).removeprefix(f"{path}: "))
        raise ValueError(
            f"{path}: not a checkpoint of s3prl, or a broken one ({reason}); delete it to continue from the one before"
        ) from error
    if not isinstance(content, dict) or not {"Args", "Config", "Downstream"} <= set(content):
        raise ValueError(f"{path}: not a checkpoint of s3prl; expected entries Args, Config and Downstream")
    if not isinstance(content["Config"], dict) or not isinstance(content["Args"], argparse.Namespace):
        raise ValueError(f"{path}: not a checkpoint of s3prl; its Args or Config are something else")
    return content


def check_device(name: str) -> None:
    """Raise ValueError for a device that this machine does not have, such as s3prl's default, cuda."""
    try:
        usable_device(name)
    except ValueError as error:
        raise ValueError(f"{error}; s3prl's default is --device cuda, so add --device cpu") from error


def check_task_name(name: str) -> None:
    """Raise ValueError for a task that the installed s3prl does not have; the message lists those that it has."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise ImportError(f"s3prl is not installed: {install_extra('superb')}")
    known = sorted(path.parent.name for path in Path(spec.origin).parent.glob("downstream/*/expert.py"))
    if name not in known:
        raise ValueError(f"s3prl has no task {name!r}; -d must be one of {', '.join(known)}")


def find_config(option: str | None, task: str) -> Path:
    """The config that ``-c`` names.

    Args:
        option: the value of ``-c``: a file, or the name of a config in configs/superb/; None for the task's default.
        task: the value of ``-d``.
    """
    if option is not None:
        return Path(option) if Path(option).suffix or Path(option).is_file() else config_path(option)
    in_checkout = Path(f"downstream/{task}/config.yaml")  # s3prl's default, if the current folder is its checkout
    return in_checkout if in_checkout.is_file() else config_path(task)

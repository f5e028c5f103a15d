"""s3prl's command line, looked over before s3prl is loaded: what is missing is filled in or named at once."""

import argparse
import importlib.util
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.integrations.s3prl.configs import config_path, read_config
from maeast_upstream.integrations.s3prl.repairs import safe_globals

MODES = ("train", "evaluate", "inference")
STATES = "states-*.ckpt"
"""Names of the checkpoints that an experiment is resumed from."""


def complete(arguments: Sequence[str]) -> list[str]:
    """The arguments for s3prl's ``run_downstream``, with ``-c`` if it was left out or names one of our configs.

    Raises:
        ValueError: one that s3prl would come to trip over, or that it would answer with a traceback.
    """
    args = read(arguments)
    check_device(args.device)
    if args.init_ckpt:
        check_checkpoint(Path(args.init_ckpt))
    past = resumed_from(args)
    if past is not None:
        check_checkpoint(past)
        return list(arguments)
    for option, value in (("-u UPSTREAM", args.upstream), ("-d TASK", args.downstream)):
        if not value:
            raise UsageError(f"{option} is missing")
    if not (args.expname or args.expdir):
        raise UsageError("give the experiment a name with -n, or a folder with -p")
    check_task_name(args.downstream)
    config = find_config(args.config, args.downstream)
    read_config(config)
    return [*arguments, "-c", str(config)]


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of s3prl that are looked at here; the others are left to s3prl's own parser."""
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
    for short, long in (
        ("-r", "--upstream_refresh"),
        ("-f", "--upstream_trainable"),
        ("-a", "--auto_resume"),
    ):
        parser.add_argument(short, long, action="store_true")
    parser.add_argument("--device", default="cuda")
    return parser.parse_known_args(arguments)[0]


def experiment_folder(args: argparse.Namespace) -> Path:
    """Where s3prl puts what it writes."""
    return Path(args.expdir or f"result/downstream/{args.expname}")


def resumed_from(args: argparse.Namespace) -> Path | None:
    """The checkpoint that ``-e`` or ``-a`` goes on from; None for a new experiment."""
    if args.past_exp and not Path(args.past_exp).is_dir():
        return Path(args.past_exp)
    folder = Path(args.past_exp) if args.past_exp else experiment_folder(args)
    states = sorted(folder.glob(STATES), key=lambda path: int(path.stem.split("-")[-1]))
    if args.past_exp and not states:
        raise ValueError(f"-e {folder}: no {STATES} in it to go on from; without -e a new experiment is begun")
    return states[-1] if states and (args.past_exp or args.auto_resume) else None


def check_checkpoint(path: Path) -> None:
    """ValueError for one that is not there or not whole."""
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: broken, or not a checkpoint of s3prl; delete it to go on from the one before it")
    safe_globals()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError) as error:  # torch's ways to say no
        raise ValueError(f"{path}: not a checkpoint of s3prl ({' '.join(str(error).split())[:160]})") from error
    if not isinstance(content, dict) or not {"Args", "Config", "Downstream"} <= set(content):
        raise ValueError(f"{path}: not a checkpoint of s3prl, which holds Args, Config and Downstream")


def check_device(name: str) -> None:
    """ValueError for CUDA where there is none: it is s3prl's default."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("--device cuda is s3prl's default, but torch sees no CUDA device here; add --device cpu")


def check_task_name(name: str) -> None:
    """ValueError for a task that the installed s3prl does not have, listing those that it has."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        raise ImportError("s3prl is not installed: pip install 'maeast-upstream[superb]'")
    known = sorted(path.parent.name for path in Path(spec.origin).parent.glob("downstream/*/expert.py"))
    if name not in known:
        raise ValueError(f"s3prl has no task {name!r}; -d takes one of {', '.join(known)}")


def find_config(given: str | None, task: str) -> Path:
    """``-c``: a file, or the name of a config in configs/superb/; left out, the task's own."""
    if given is not None:
        return Path(given) if Path(given).suffix or Path(given).is_file() else config_path(given)
    own = Path(f"downstream/{task}/config.yaml")  # where s3prl looks: there if this is its checkout
    return own if own.is_file() else config_path(task)

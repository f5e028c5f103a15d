"""What all `maeast` commands share: a parser whose errors are one line, and the readout's options."""

import argparse
from typing import NoReturn, get_args

from maeast_upstream.readout import Mel, Pool, Readout


class UsageError(ValueError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line raises `UsageError`, so that it ends like every other error."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting with status 2."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --device, --precision."""
    parser.add_argument(
        "--checkpoint",
        help="name, path or hub id; default: the checkpoint in the package",
    )
    parser.add_argument("--device", help="cpu, cuda, ...; default: cpu")
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32 (default), bf16, fp16; int8 where an engine has it",
    )


def add_readout_options(parser: argparse.ArgumentParser) -> None:
    """--layer, --mel, --pool, --hop-ms."""
    parser.add_argument("--layer", help="1..depth, last, mean or all")
    parser.add_argument("--mel", help=f"the mel patches of an instant: {' or '.join(get_args(Mel))}")
    parser.add_argument("--pool", help=f"over time, for scenes: {', '.join(get_args(Pool))}")
    parser.add_argument("--hop-ms", help="time steps: native, or 40 for patch models")


def parse_layer(text: str) -> int | str:
    """``7`` or a name."""
    return int(text) if text.isdecimal() else text


def parse_hop(text: str) -> float | None:
    """``native`` or milliseconds."""
    if text == "native":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--hop-ms must be native or a number, got {text!r}") from None


def parse_seed(text: str) -> int:
    """A whole number that numpy, scikit-learn and torch all take."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def readout_from(args: argparse.Namespace, default: Readout) -> Readout:
    """The checkpoint's readout, changed by what the command line gave."""
    return Readout(
        layer=default.layer if args.layer is None else parse_layer(args.layer),
        mel=args.mel or default.mel,
        pool=args.pool or default.pool,
        hop_ms=default.hop_ms if args.hop_ms is None else parse_hop(args.hop_ms),
    )

"""What all `maeast` commands share: a parser whose errors are one line, and the readout's options.

Like everything that a command imports before it has read its options, this module does not import torch.
"""

import argparse
import difflib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn, get_args

from maeast_upstream import cli
from maeast_upstream.data.windows import Windows
from maeast_upstream.readout import Mel, Pool, Readout

ENGINE_PRECISIONS = (
    "fp32 (default), bf16, fp16 or, with OpenVINO, int8; auto: the fastest whose vectors have a cosine with fp32 of at "
    "least 0.999"
)
"""The values of --precision where an engine runs the transformer, for the help."""

DIMS_HELP = "length of a vector: the first N numbers of the checkpoint's projection, see maeast project; or full"
"""The values of --dims."""
WHITEN_HELP = "whether vectors are whitened, as the checkpoint stores it for its readout, see maeast project"
"""The meaning of --whiten."""


class UsageError(ValueError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are exceptions, with the options that every command has.

    A wrong command line raises `UsageError`, so that it ends like every other error. ``-v``, ``-q`` and
    ``--traceback`` are added and obeyed, unless ``add_help`` is False.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `argparse.ArgumentParser`."""
        super().__init__(**options)
        self._given: list[str] = []
        if self.add_help:
            add_output_options(self)

    def parse_known_args(  # type: ignore[override]  # argparse overloads it for namespaces of other classes
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, then set how much is shown."""
        self._given = list(args or ())
        parsed, unknown = super().parse_known_args(args, namespace)
        if self.add_help:
            cli.set_verbosity(parsed.verbose, parsed.quiet)
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` instead of exiting with status 2.

        Raises:
            UsageError: always; for a mistyped option it names the one that was probably meant.
        """
        hint = suggest_option(self._given, list(self._option_string_actions))
        raise UsageError(f"{message}{hint} (see {self.prog} --help)")


def suggest_option(arguments: Sequence[str], options: Sequence[str]) -> str:
    """Return ``; did you mean OPTION instead of ARGUMENT?`` for a mistyped option, and ``""`` if there is none."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in options):
            close = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
            if close:
                return f"; did you mean {close[0]} instead of {name}?"
    return ""


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add -v, -q and --traceback."""
    group = parser.add_argument_group("messages")
    level = group.add_mutually_exclusive_group()
    level.add_argument("-v", "--verbose", action="store_true", help="show more messages")
    level.add_argument("-q", "--quiet", action="store_true", help="show only results and errors, and no progress bars")
    group.add_argument(cli.TRACEBACK_OPTION, action="store_true", help="show where in the code an error was raised")


def take_output_options(arguments: Sequence[str]) -> list[str]:
    """Obey -v and -q in a command line that another parser will read, and return the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_output_options(parser)
    parsed, others = parser.parse_known_args(arguments)
    cli.set_verbosity(parsed.verbose, parsed.quiet)
    return others


def add_model_options(
    parser: argparse.ArgumentParser, several: bool = False, precisions: str = "fp32 (default), bf16 or fp16"
) -> None:
    """Add --checkpoint, --device and --precision.

    Args:
        parser: the parser of a command.
        several: --checkpoint may be repeated.
        precisions: the values of --precision, for the help.
    """
    if several:
        parser.add_argument(
            "--checkpoint",
            action="append",
            metavar="[NAME=]SOURCE",
            help="name, path or hub id; default: the one in the package, also called bundled. Give the option again "
            "for more checkpoints; those of the same NAME are seeds of the same recipe, and their mean is shown",
        )
    else:
        parser.add_argument("--checkpoint", help="name, path or hub id; default: the checkpoint in the package")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ..., or auto: CUDA if there is one; default: cpu")
    parser.add_argument("--precision", default="fp32", help=precisions)


def add_readout_options(parser: argparse.ArgumentParser, dims: str = DIMS_HELP) -> None:
    """Add --layer, --mel, --pool, --hop-ms and --dims; see `readout_from`.

    Args:
        parser: the parser of a command.
        dims: the help of --dims.
    """
    parser.add_argument("--layer", help="1..depth, last, mean or all")
    parser.add_argument("--mel", help=f"how to combine the mel patches of a time step: {' or '.join(get_args(Mel))}")
    parser.add_argument("--pool", help=f"how to pool over time for one vector per clip: {', '.join(get_args(Pool))}")
    parser.add_argument("--hop-ms", help="distance of time steps: native, or 40 for patch models")
    parser.add_argument("--dims", metavar="N", help=dims)
    parser.add_argument("--whiten", action=argparse.BooleanOptionalAction, help=WHITEN_HELP)


def add_window_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--window`` and ``--overlap``, which `windows_from` reads."""
    text = "cut audio into windows of this length, with a row each; the last one ends at the end of the file"
    parser.add_argument("--window", type=float, metavar="SECONDS", help=f"{text}; default: a row per clip")
    parser.add_argument(
        "--overlap", type=float, metavar="SECONDS", help="by how much consecutive windows overlap; default 0"
    )


def windows_from(args: argparse.Namespace) -> Windows | None:
    """Return how the options cut audio into windows; None for not at all.

    Raises:
        UsageError: ``--overlap`` is given without ``--window``, or one of them is out of range.
    """
    if args.window is None:
        if args.overlap is not None:
            raise UsageError("--overlap goes with --window SECONDS")
        return None
    try:
        return Windows(args.window, args.overlap or 0.0)
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def add_column_options(parser: argparse.ArgumentParser, *columns: str) -> None:
    """Add --path-column, --label-column and --split-column, or those of them that ``columns`` names."""
    for column in columns:
        parser.add_argument(f"--{column}-column", metavar="NAME", help=f"what the table calls the column {column}")


def columns_from(args: argparse.Namespace) -> dict[str, str]:
    """Return what a table calls its columns, by path, label and split, where an option says so."""
    given = {column: getattr(args, f"{column}_column", None) for column in ("path", "label", "split")}
    return {column: name for column, name in given.items() if name is not None}


def parse_layer(text: str) -> int | str:
    """Parse ``7``, or return the name of a layer as it is."""
    return int(text) if text.isdecimal() else text


def parse_hop(text: str) -> float | None:
    """Parse a number of milliseconds, or ``native``, which becomes None.

    Raises:
        UsageError: anything else.
    """
    if text == "native":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--hop-ms must be native or a number, got {text!r}") from None


def parse_dims(text: str) -> int | None:
    """Parse a length of vectors, or ``full``, which becomes None.

    Raises:
        UsageError: anything else.
    """
    if text == "full":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--dims must be full or a whole number, got {text[:60]!r}") from None


def parse_seed(text: str) -> int:
    """Parse a whole number that numpy, scikit-learn and torch all accept as a seed.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def readouts_from(args: argparse.Namespace, default: Readout) -> list[Readout]:
    """Return all combinations of comma-separated options, each once; the checkpoint's own where none is given."""
    layers = [default.layer] if args.layer is None else [parse_layer(text) for text in args.layer.split(",")]
    mels = [default.mel] if args.mel is None else args.mel.split(",")
    pools = [default.pool] if args.pool is None else args.pool.split(",")
    hops = [default.hop_ms] if args.hop_ms is None else [parse_hop(text) for text in args.hop_ms.split(",")]
    readouts = [
        Readout(layer=layer, mel=mel, pool=pool, hop_ms=hop)
        for layer, mel, pool, hop in itertools.product(layers, mels, pools, hops)
    ]
    lengths = [None] if args.dims is None else args.dims.split(",")
    readouts = [
        _projected(readout, default, dims, args.whiten) for readout, dims in itertools.product(readouts, lengths)
    ]
    return list(dict.fromkeys(readouts))


def _projected(readout: Readout, default: Readout, dims: str | None, whiten: bool | None) -> Readout:
    """A readout with the values of --dims and --whiten; None: the checkpoint's, if the readout is its own otherwise."""
    own = readout.with_projection_of(default)
    whiten = own.whiten if whiten is None else whiten
    if dims is not None:
        return replace(readout, dims=parse_dims(dims), whiten=whiten)
    return replace(readout, dims=own.dims if whiten == own.whiten else None, whiten=whiten)


def readout_from(args: argparse.Namespace, default: Readout) -> Readout:
    """Return the checkpoint's readout with the options that were given on the command line.

    Without --dims and --whiten it keeps the checkpoint's own if no other option changes it, since a projection belongs
    to one readout. Where a command has --kind frames, there is none.

    Raises:
        UsageError: an option has another value, or --dims or --whiten goes with --kind frames.
    """
    readout = Readout(
        layer=default.layer if args.layer is None else parse_layer(args.layer),
        mel=args.mel or default.mel,
        pool=args.pool or default.pool,
        hop_ms=default.hop_ms if args.hop_ms is None else parse_hop(args.hop_ms),
    )
    whiten = getattr(args, "whiten", None)
    if getattr(args, "kind", "scene") == "scene":
        return _projected(readout, default, args.dims, whiten)
    if whiten or (args.dims is not None and parse_dims(args.dims) is not None):
        option = "--whiten" if whiten else "--dims"
        raise UsageError(f"{option} goes with --kind scene: a projection is one of vectors that were pooled over time")
    return readout

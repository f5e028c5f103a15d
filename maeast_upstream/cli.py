"""The command ``maeast``: finds a subcommand, runs it, and reports errors in one line.

Importing this module and printing the help load neither torch nor any command.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maeast_upstream.version import __version__

Command = Callable[[Sequence[str]], int]
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
DEBUG_VARIABLE = "MAEAST_DEBUG"
"""Environment variable: if it is set and not "0", an error shows its traceback, as ``--traceback`` does."""


class CommandEntry(NamedTuple):
    """Where a subcommand is defined."""

    module: str
    """Module whose ``main`` takes the arguments and returns the exit status."""
    help: str
    """One line for the list of commands."""


COMMANDS = {
    "embed": CommandEntry("maeast_upstream.commands.embed", "Embed audio files, folders, manifests and tars"),
    "map": CommandEntry(
        "maeast_upstream.commands.map", "Draw a table of embeddings as an interactive page or a picture"
    ),
    "probe": CommandEntry("maeast_upstream.commands.probe", "Train a linear classifier on frozen embeddings"),
    "finetune": CommandEntry(
        "maeast_upstream.commands.finetune", "Fine-tune an encoder with a classifier on labelled clips"
    ),
    "report": CommandEntry(
        "maeast_upstream.commands.report", "Compare checkpoints and other features on labelled sets"
    ),
    "visualize": CommandEntry("pretrain.visualize", "Draw a clip, its masked input and the reconstruction"),
    "info": CommandEntry("maeast_upstream.commands.info", "Show a checkpoint's sizes, settings and model card"),
    "convert": CommandEntry("maeast_upstream.commands.convert", "Convert checkpoints from and to the published format"),
    "export": CommandEntry("maeast_upstream.commands.export", "Export a model to ONNX or OpenVINO"),
    "pretrain": CommandEntry("pretrain.cli", "Pretrain an encoder on your own audio"),
    "hear": CommandEntry("hear_api.heareval.command", "Run HEAR's evaluation kit"),
    "hear-task": CommandEntry("hear_api.tasks.create", "Make a task for HEAR's evaluation kit from labelled clips"),
    "superb-data": CommandEntry(
        "maeast_upstream.commands.superb_data", "Lay out labelled clips as the data of a SUPERB task"
    ),
    "export-s3prl": CommandEntry(
        "maeast_upstream.commands.export_s3prl", "Write a checkpoint as a model-hub folder for s3prl"
    ),
    "install-s3prl": CommandEntry(
        "maeast_upstream.commands.install_s3prl", "Add the upstream mae_ast to a checkout of s3prl"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 all done, 1 nothing done or wrong usage, 3 done in part."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 1
    if arguments[0] in ("-V", "--version"):
        print(f"maeast {__version__}")
        return 0
    return run(lambda rest: find(arguments[0])(rest), arguments[1:])


def run(command: Command, arguments: Sequence[str] | None = None) -> int:
    """Call a command; a user's mistake becomes one line on stderr and status 1, Ctrl-C becomes status 130."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--traceback" in arguments or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    try:
        return command([argument for argument in arguments if argument != "--traceback"])
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:  # torch and Ray raise RuntimeError
        if debug:
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


def find(name: str) -> Command:
    """A command by name; ValueError suggests a name that looks like it."""
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise ValueError(f"unknown command {name!r}; {hint}")
    command: Command = importlib.import_module(COMMANDS[name].module).main
    return command


def usage() -> str:
    """The list of commands with a line of help for each."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: maeast COMMAND [options]   (maeast COMMAND --help lists a command's options)", ""]
    lines += [f"  {name:<{width}}{entry.help}" for name, entry in COMMANDS.items()]
    return "\n".join(lines)


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())

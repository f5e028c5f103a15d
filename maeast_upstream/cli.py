"""The command ``maeast``: finds a subcommand, runs it, and reports errors in one line.

Importing this module and printing the help load neither torch nor any command.
"""

import contextlib
import difflib
import enum
import importlib
import itertools
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maeast_upstream.console import print_any_text, warnings_in_lines
from maeast_upstream.display import printable, without_secrets
from maeast_upstream.messages import MAX_MESSAGE, shortened
from maeast_upstream.version import __version__

Command = Callable[[Sequence[str]], int]
PACKAGES = ("maeast_upstream", "pretrain", "hear_api")
TRACEBACK_OPTION = "--traceback"
OUTPUT_OPTIONS = ("-v", "--verbose", "-q", "--quiet", TRACEBACK_OPTION)
"""Options of every command, which may also stand before its name."""
DEBUG_VARIABLE = "MAEAST_DEBUG"
"""Environment variable: if it is set and not "0", an error shows its traceback, as ``--traceback`` does."""


class ExitStatus(enum.IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    """Nothing was done, or the command line is wrong."""
    PARTIAL = 3
    """Some of the inputs failed and are listed; the others are done."""
    INTERRUPTED = 130
    """Ctrl-C, with the number that shells use."""
    UNREAD = 141
    """Whatever read the output ended, such as ``head``; with the number that shells use."""


class CommandEntry(NamedTuple):
    """Where a subcommand is defined."""

    module: str
    """Module whose ``main`` takes the arguments and returns the exit status."""
    help: str
    """One line for the list of commands."""


COMMANDS = {
    "embed": CommandEntry("maeast_upstream.commands.embed", "Embed audio files, folders, manifests and tars"),
    "predict": CommandEntry("maeast_upstream.commands.predict", "Label recordings by a classifier that was fitted"),
    "map": CommandEntry(
        "maeast_upstream.commands.map", "Draw a table of embeddings as an interactive page or a picture"
    ),
    "index": CommandEntry("maeast_upstream.commands.index", "Index a table of embeddings, to search millions of rows"),
    "search": CommandEntry("maeast_upstream.commands.search", "Find what sounds like a clip in a table of embeddings"),
    "cluster": CommandEntry("maeast_upstream.commands.cluster", "Add a column with clusters to a table of embeddings"),
    "dedup": CommandEntry("maeast_upstream.commands.dedup", "List the duplicates among the clips of a table"),
    "fit": CommandEntry("maeast_upstream.commands.fit", "Train a classifier on labelled clips or events"),
    "probe": CommandEntry(
        "maeast_upstream.commands.probe", "Train linear classifiers on frozen embeddings; compare checkpoints"
    ),
    "finetune": CommandEntry(
        "maeast_upstream.commands.finetune", "Fine-tune an encoder with a classifier on labelled clips"
    ),
    "visualize": CommandEntry("pretrain.visualize", "Draw a clip, its masked input and the reconstruction"),
    "project": CommandEntry(
        "maeast_upstream.commands.project", "Fit shorter or whitened vectors, which a checkpoint stores"
    ),
    "info": CommandEntry("maeast_upstream.commands.info", "Show a checkpoint's sizes, settings and model card"),
    "convert": CommandEntry("maeast_upstream.commands.convert", "Convert checkpoints from and to the published format"),
    "export": CommandEntry("maeast_upstream.commands.export", "Export a model to ONNX or OpenVINO"),
    "pretrain": CommandEntry("pretrain.cli", "Pretrain an encoder on your own audio"),
    "hear": CommandEntry("hear_api.heareval.command", "Run HEAR's evaluation kit"),
    "hear-task": CommandEntry("hear_api.tasks.create", "Make a task for HEAR's evaluation kit from labelled clips"),
    "hoplite": CommandEntry(
        "maeast_upstream.commands.hoplite", "Convert tables of embeddings to and from Perch-Hoplite databases"
    ),
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
    """Run a command and return its exit status, an `ExitStatus`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    shared = list(itertools.takewhile(OUTPUT_OPTIONS.__contains__, arguments))
    name, *rest = arguments[len(shared) :] or [""]
    if name in ("", "-h", "--help"):
        return run(_print_usage, [name])
    if name in ("-V", "--version"):
        print(f"maeast {__version__}")
        return ExitStatus.DONE
    return run(lambda given: find(name)(given), [*shared, *rest])


def run(command: Command, arguments: Sequence[str] | None = None) -> int:
    """Call a command and report how it ended.

    A mistake of the user becomes one line on stderr and status 1, a bug of this project too, with a request to report
    it. With ``--traceback`` or ``MAEAST_DEBUG=1`` the traceback comes before the line. Ctrl-C becomes status 130. A
    reader of the output that stops early, such as ``head``, is no error message, but status 141. Any text can be
    printed, see `console`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = TRACEBACK_OPTION in arguments or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")
    print_any_text()
    try:
        with warnings_in_lines():
            status = _status_of(command, [argument for argument in arguments if argument != TRACEBACK_OPTION])
        if sys.stdout is not None:  # a shell can close it
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _leave_unread_output():
            return ExitStatus.UNREAD
        if debug:
            print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
        print(f"error: {describe(error)}", file=sys.stderr)
        return ExitStatus.FAILED
    return status


def _status_of(command: Command, arguments: Sequence[str]) -> int:
    """Call a command; ``--help``, which ends it by an exception, has a status, too."""
    try:
        return command(arguments)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise
        return stop.code or ExitStatus.DONE


def _leave_unread_output() -> bool:
    """Give up what stdout and stderr still hold where nobody reads it; False if somebody reads both."""
    unread = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # no file, as in a notebook; closed by a shell
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the interpreter flushes once more
                unread = True
    return unread


def find(name: str) -> Command:
    """Import a command by name.

    Raises:
        ValueError: there is no such command; the message suggests one that looks like it.
    """
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise ValueError(f"unknown command {name!r}; {hint}")
    command: Command = importlib.import_module(COMMANDS[name].module).main
    return command


def usage() -> str:
    """Return the list of commands with a line of help for each."""
    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: maeast COMMAND [options]   (maeast COMMAND --help lists a command's options)", ""]
    lines += [f"  {name:<{width}}{entry.help}" for name, entry in COMMANDS.items()]
    lines += ["", "Every command takes -v (more messages), -q (only results and errors) and --traceback."]
    return "\n".join(lines)


def _print_usage(arguments: Sequence[str]) -> int:
    print(usage())
    return ExitStatus.DONE if arguments[0] else ExitStatus.FAILED


def set_verbosity(verbose: bool, quiet: bool) -> None:
    """Choose which log messages of this project are shown on stderr.

    Args:
        verbose: all messages, each with its time.
        quiet: errors only; progress bars are hidden too, since `progress.progress_bar` looks at this level.
    """
    if verbose:
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.NOTSET
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)


def describe(error: Exception) -> str:
    """Return an error's message in one line of bounded length, without passwords; a bug asks for a report."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.filename}: {error.strerror.lower()}"
    else:
        message = " ".join(str(error).split()) or type(error).__name__
    message = printable(shortened(without_secrets(message), MAX_MESSAGE))
    if is_expected(error):
        return message
    return (
        f"unexpected {type(error).__name__}: {message}; this is probably a bug of maeast: "
        f"run the command again with {TRACEBACK_OPTION} and report what it shows"
    )


def is_expected(error: Exception) -> bool:
    """Whether an error says what the user or the machine did wrong, rather than that this project has a bug.

    Expected are errors of files, memory and missing packages, and what this project raises itself as ValueError or
    RuntimeError. The same types raised by Python or a library, such as ``int("x")``, are unexpected.
    """
    if isinstance(error, OSError | MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's on CUDA
        return True
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] not in PACKAGES
    return isinstance(error, ValueError | RuntimeError) and _is_raised_here(error)


def _is_raised_here(error: Exception) -> bool:
    """Whether the error comes from a ``raise`` statement in a file of this project."""
    import dis

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    code, module = trace.tb_frame.f_code, trace.tb_frame.f_globals.get("__name__", "")
    statement = dis.opname[code.co_code[trace.tb_lasti]]
    return module.partition(".")[0] in (*PACKAGES, "__main__") and statement in ("RAISE_VARARGS", "RERAISE")


if __name__ == "__main__":
    raise SystemExit(main())

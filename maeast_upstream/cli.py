"""``maeast COMMAND``: finds the commands that the installed packages register, and reports errors in one line."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from maeast_upstream import __version__

GROUP = "maeast.commands"
Command = Callable[[Sequence[str]], int]
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 all done, 1 nothing done or wrong usage, 3 done in part."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(commands))
        return 0 if arguments else 1
    if arguments[0] in ("-V", "--version"):
        print(f"maeast {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    return run(lambda argv: find(name, commands)(argv), rest)


def run(command: Command, arguments: Sequence[str] | None = None) -> int:
    """Call a command; what a user did wrong becomes one line on stderr and status 1, Ctrl-C status 130."""
    try:
        return command(sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:  # torch and Ray raise RuntimeError
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED


def find(name: str, commands: dict[str, EntryPoint]) -> Command:
    """A command by name; ValueError lists the known ones."""
    if name not in commands:
        raise ValueError(f"unknown command {name!r}; there are {', '.join(sorted(commands))}")
    command: Command = commands[name].load()
    return command


def usage(commands: dict[str, EntryPoint]) -> str:
    """The list of commands, each with the first line of its function's docstring."""
    lines = ["usage: maeast COMMAND [options]   (maeast COMMAND --help tells more)", ""]
    for name, entry in sorted(commands.items()):
        lines.append(f"  {name:<12}{purpose(entry)}")
    return "\n".join(lines)


def purpose(entry: EntryPoint) -> str:
    """First line of a command's docstring, or what the command lacks."""
    try:
        return (entry.load().__doc__ or "").strip().split("\n")[0]
    except ImportError as error:
        return f"(not to be used here: {one_line(error)})"


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main())

"""Progress bars and lines that obey the command line's ``--quiet``."""

import logging
import sys
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")


def is_quiet() -> bool:
    """Whether only errors should be shown, which ``--quiet`` sets as the level of this package's log."""
    return not logging.getLogger(__package__).isEnabledFor(logging.WARNING)


def say(line: str, in_terminals_only: bool = False) -> None:
    """Write a line on the progress of a command to stderr, beside any bar, unless ``--quiet`` is given.

    Args:
        line: what is done now.
        in_terminals_only: not into files and pipes, which should get few lines.
    """
    if sys.stderr is not None and not is_quiet() and (sys.stderr.isatty() or not in_terminals_only):
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


@overload
def progress_bar(iterable: None = None, **options: Any) -> "tqdm[Any]": ...
@overload
def progress_bar(iterable: Iterable[T], **options: Any) -> "tqdm[T]": ...
def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """Return a tqdm bar, which is shown only in a terminal and not with ``--quiet``.

    Args:
        iterable: what to go through; None for a bar that the caller updates.
        options: of `tqdm.tqdm`, except ``disable``.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(iterable, **options, disable=is_quiet() or not terminal)

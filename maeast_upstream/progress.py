"""Progress bars that obey the command line's ``--quiet``."""

import logging
import sys
from collections.abc import Iterable
from typing import Any, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")


def is_quiet() -> bool:
    """Whether only errors should be shown, which ``--quiet`` sets as the level of this package's log."""
    return not logging.getLogger(__package__).isEnabledFor(logging.WARNING)


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

"""The console of a command: text that its encoding lacks is printed as marks, and warnings are a line each."""

import codecs
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)

ERRORS = "maeast-marks"
"""Name of the error handler that `print_any_text` gives to stdout and stderr."""
MAX_SHOWN_WARNINGS = 5


def _as_marks(error: UnicodeError) -> tuple[str, int]:
    r"""Write what cannot be encoded as ``display.as_text`` does: a byte of a name as \xe9, a character as \u65e5."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    marks = (
        f"\\x{ord(character) - 0xDC00:02x}"
        if "\udc80" <= character <= "\udcff"
        else character.encode("ascii", "backslashreplace").decode()
        for character in error.object[error.start : error.end]
    )
    return "".join(marks), error.end


codecs.register_error(ERRORS, _as_marks)


def print_any_text() -> None:
    """Let stdout and stderr print any text, whatever the encoding of the console or the pipe."""
    for stream in (sys.stdout, sys.stderr):  # a shell can close them
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors=ERRORS)


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Log each different warning of this project as a line, the first five of them, and then their number."""
    show, seen = warnings.showwarning, set()

    def show_line(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
        if not category.__module__.startswith(f"{__package__}."):
            show(message, category, *place, **options)
        elif str(message) not in seen:
            seen.add(str(message))
            if len(seen) <= MAX_SHOWN_WARNINGS:
                logger.warning("%s", message)

    warnings.showwarning = show_line
    try:
        yield
    finally:
        warnings.showwarning = show
        if len(seen) > MAX_SHOWN_WARNINGS:
            logger.warning("%d such notes in all; the first %d are above", len(seen), MAX_SHOWN_WARNINGS)

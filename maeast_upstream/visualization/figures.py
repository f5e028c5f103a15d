"""Draws pictures without pyplot, so without a display or global state; a file appears whole or not at all."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maeast_upstream.display import as_text
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

DPI = 130
MAX_NAME = 60
"""Longest name that is drawn, in characters."""


@contextlib.contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Yield an empty figure of width x height inches, and save it as ``path`` when the body is done.

    Raises:
        ValueError: matplotlib is not installed, does not know the suffix, or ``path`` cannot be
            written; raised before the body runs.
    """
    refuse_no_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if path.suffix.lower().removeprefix(".") not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path}: expected a name that ends in .png, .svg, .pdf or .jpg")
    with replacing(path) as part:
        yield figure
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(part, dpi=DPI)
    for warning in caught:
        if not str(warning.message).startswith("Glyph "):
            warnings.warn(warning.message, warning.category, stacklevel=3)
    if missing := sum(str(warning.message).startswith("Glyph ") for warning in caught):
        logger.warning(
            "%s: matplotlib's font lacks %d characters of the names, which are drawn as boxes", path, missing
        )


def drawn_name(name: str, max_characters: int = MAX_NAME) -> str:
    """Return a name that came from outside as it is drawn: in one line, and shortened in the middle.

    Give it to matplotlib with ``parse_math=False``, or `draw_legend`: a name may hold ``$``, which begins a formula.
    """
    text = "".join(character if character.isprintable() else " " for character in as_text(name))
    half = (max_characters - 3) // 2
    return text if len(text) <= max_characters else f"{text[:half]}...{text[-half:]}"


def draw_legend(owner: Any, handles: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """Draw the legend of axes or a figure.

    Args:
        owner: The axes or the figure.
        handles: What is named.
        names: As they came from outside: matplotlib itself leaves out those that begin with ``_``.
        options: Of matplotlib's ``legend``.
    """
    legend = owner.legend(handles, [str(number) for number in range(len(handles))], **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=drawn_name(name), parse_math=False)


def refuse_no_matplotlib() -> None:
    """Raise ValueError if matplotlib is not installed; also called before long work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError(f"pictures need matplotlib: {install_extra('plot')}") from error

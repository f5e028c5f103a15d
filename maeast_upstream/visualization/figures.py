"""Draws pictures without pyplot, so without a display or global state; a file appears whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.storage.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 130


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
        figure.savefig(part, dpi=DPI)


def refuse_no_matplotlib() -> None:
    """Raise ValueError if matplotlib is not installed; also called before long work."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ValueError("pictures need matplotlib: pip install 'maeast-upstream[plot]'") from error

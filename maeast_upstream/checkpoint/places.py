"""Finds a checkpoint by its name, path or hub id; torch is loaded only where a published one is downloaded."""

import os
import re
from pathlib import Path

from maeast_upstream.checkpoint import download
from maeast_upstream.checkpoint.layout import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from maeast_upstream.checkpoint.projection import PROJECTION_NAME
from maeast_upstream.checks import quote
from maeast_upstream.messages import shortened

BUNDLED, BUNDLED_NAME = Path(__file__).parents[1] / "assets" / "tiny", "bundled"
"""The checkpoint in the package, and its name."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""A repository of the hub."""
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt")
"""Endings of a file's name, as opposed to a hub id."""


def resolve(source: str | Path | None) -> Path:
    """Return the path of a checkpoint, after downloading it if necessary.

    Args:
        source: None or "bundled" for the one in the package; the name of a published one; a path; or a hub id such as
            "org/name".

    Raises:
        ValueError: There is no such checkpoint.
    """
    if source is None:
        return BUNDLED
    if not isinstance(source, str | os.PathLike) or not str(source).strip():
        raise ValueError(f"expected the name, path or hub id of a checkpoint, or None, got {quote(source)}")
    try:
        path = Path(source).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a name that is too long; ~NAME where there is no such user
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"no checkpoint {quote(str(source))}: {reason}") from error
    if str(source) == BUNDLED_NAME:
        return BUNDLED
    if str(source) in download.FILES:
        return download.fetch(str(source), check=_read_published)
    if HUB_ID.fullmatch(str(source)) and path.suffix not in FILE_SUFFIXES:
        return _from_hub(str(source))
    raise ValueError(
        f"no checkpoint {str(source)!r}: expected a file or folder that exists, a hub id (org/name), "
        f"or one of {', '.join([BUNDLED_NAME, *download.FILES])}"
    )


def _read_published(path: Path) -> object:
    from maeast_upstream.checkpoint.loading import read_published

    return read_published(path)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS_NAME, CONFIG_NAME, PROJECTION_NAME, CARD_NAME]))
    except Exception as error:  # the remedy is the same, whatever the client of the hub raises
        reason = shortened(error)
        raise ValueError(
            f"no file or folder {name!r}, and it could not be downloaded from the hub ({reason}); offline, put its "
            f"{WEIGHTS_NAME} and {CONFIG_NAME} into a folder and give that folder"
        ) from error

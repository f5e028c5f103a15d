"""Finds a checkpoint by its name, path or hub id, and reads it."""

import contextlib
import os
import re
from pathlib import Path

from maeast_upstream.checkpoint import download, published, unpickle
from maeast_upstream.checkpoint.folder import (
    CONFIG_NAME,
    RUN_ENCODERS,
    WEIGHTS_NAME,
    Loaded,
    read_folder,
    read_folder_config,
    validated,
)
from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig
from maeast_upstream.messages import shortened

BUNDLED, BUNDLED_NAME = Path(__file__).parents[1] / "assets" / "tiny", "bundled"
"""The checkpoint in the package, and its name."""
TUNED_ENCODER = "encoder"
"""Checkpoint folder inside the folder that a fine-tuning leaves for each set."""
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
        return download.fetch(str(source), check=read_published)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in FILE_SUFFIXES:
        return _from_hub(str(source))
    raise ValueError(
        f"no checkpoint {str(source)!r}: expected a file or folder that exists, a hub id (org/name), "
        f"or one of {', '.join([BUNDLED_NAME, *download.FILES])}"
    )


def read(path: Path) -> Loaded:
    """Read a checkpoint of any format.

    Args:
        path: A checkpoint folder, the folder of a pretraining run or a fine-tuning, or a published .pt file.

    Raises:
        ValueError: It is no checkpoint of this model, is broken, or is refused because it asks to run code.
    """
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: give the folder that holds it and its {CONFIG_NAME}")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: neither a file nor a folder")
    if path.is_file():
        return read_published(path)
    folder = _checkpoint_folder(path)
    try:
        return read_folder(folder)
    except ValueError as error:
        raise ValueError(f"{error}{_whole_besides(path, folder)}") from error


def read_config(path: Path) -> EncoderConfig:
    """Read the config of a checkpoint as `read` does, but no weights if it is a folder."""
    return read_folder_config(_checkpoint_folder(path)) if path.is_dir() else read(path).config


def _checkpoint_folder(path: Path) -> Path:
    """The checkpoint folder in that of a pretraining run or a fine-tuning; any other folder itself.

    Raises:
        ValueError: A fine-tuning on several sets left several encoders in it.
    """
    inside = [path / name for name in (*RUN_ENCODERS, TUNED_ENCODER) if (path / name / CONFIG_NAME).exists()]
    if inside or (path / CONFIG_NAME).exists():
        return inside[0] if inside else path
    tuned = sorted(file.parent for file in path.glob(f"*/{TUNED_ENCODER}/{CONFIG_NAME}"))
    if len(tuned) > 1:
        raise ValueError(f"{path}: holds {len(tuned)} fine-tuned encoders: give one, such as {tuned[0]}")
    return tuned[0] if tuned else path


def _whole_besides(run: Path, broken: Path) -> str:
    """The end of a message: which other encoder of a run can be read."""
    for folder in (run / name for name in RUN_ENCODERS if run / name != broken and broken != run):
        with contextlib.suppress(ValueError):
            read_folder(folder)
            return f"; {folder} is whole: give that folder instead"
    return ""


def read_published(path: Path) -> Loaded:
    """Read a published file, or one that fairseq wrote."""
    content = unpickle.load(path, published.ENTRIES)
    try:
        config, state = published.from_published(content)
    except ValueError as error:
        hint = "; an experiment of s3prl: maeast convert FILE -o FOLDER" if path.suffix == ".ckpt" else ""
        raise ValueError(f"{path}: {error}{hint}") from error
    return validated(path, config, state)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS_NAME, CONFIG_NAME]))
    except Exception as error:  # the remedy is the same, whatever the client of the hub raises
        reason = shortened(error)
        raise ValueError(
            f"no file or folder {name!r}, and it could not be downloaded from the hub ({reason}); offline, put its "
            f"{WEIGHTS_NAME} and {CONFIG_NAME} into a folder and give that folder"
        ) from error

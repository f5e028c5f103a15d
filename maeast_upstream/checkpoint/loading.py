"""Finds a checkpoint by its name, path or hub id, and reads it."""

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
from maeast_upstream.config import EncoderConfig

BUNDLED = Path(__file__).parents[1] / "assets" / "tiny"
"""The checkpoint in the package."""
FILE_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt")
"""Endings of a file's name, as opposed to a hub id."""


def resolve(source: str | Path | None) -> Path:
    """Return the path of a checkpoint, after downloading it if necessary.

    Args:
        source: None for the one in the package; the name of a published one; a path; or a hub id such as "org/name".

    Raises:
        ValueError: There is no such checkpoint.
    """
    if source is None:
        return BUNDLED
    path = Path(source).expanduser()
    if path.exists():
        return path
    if str(source) in download.FILES:
        return download.fetch(str(source), check=read_published)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in FILE_SUFFIXES:
        return _from_hub(str(source))
    raise ValueError(
        f"no checkpoint {str(source)!r}: expected a file or folder that exists, a hub id (org/name), "
        f"or one of {', '.join(download.FILES)}"
    )


def read(path: Path) -> Loaded:
    """Read a checkpoint of any format.

    Args:
        path: A checkpoint folder, the folder of a pretraining run, or a published .pt file.

    Raises:
        ValueError: It is no checkpoint of this model, is broken, or is refused because it asks to run code.
    """
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: give the folder that holds it and its {CONFIG_NAME}")
    return read_published(path) if path.is_file() else read_folder(_checkpoint_folder(path))


def read_config(path: Path) -> EncoderConfig:
    """Read the config of a checkpoint as `read` does, but no weights if it is a folder."""
    return read_folder_config(_checkpoint_folder(path)) if path.is_dir() else read(path).config


def _checkpoint_folder(path: Path) -> Path:
    """The preferred checkpoint folder of a pretraining run; any other folder itself."""
    return next((path / name for name in RUN_ENCODERS if (path / name / CONFIG_NAME).exists()), path)


def read_published(path: Path) -> Loaded:
    """Read a published file, or one that fairseq wrote."""
    content = unpickle.load(path, published.ENTRIES)
    try:
        config, state = published.from_published(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return validated(path, config, state)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS_NAME, CONFIG_NAME]))
    except Exception as error:  # the remedy is the same, whatever the client of the hub raises
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"no file or folder {name!r}, and it could not be downloaded from the hub ({reason}); offline, put its "
            f"{WEIGHTS_NAME} and {CONFIG_NAME} into a folder and give that folder"
        ) from error

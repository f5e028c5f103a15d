"""Reads a checkpoint of any format."""

import contextlib
from pathlib import Path

from maeast_upstream.checkpoint import published, unpickle
from maeast_upstream.checkpoint.folder import Loaded, read_folder, validated
from maeast_upstream.checkpoint.layout import CONFIG_NAME, RUN_ENCODERS, encoder_folder, read_folder_config
from maeast_upstream.config import EncoderConfig


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
    folder = encoder_folder(path)
    try:
        return read_folder(folder)
    except ValueError as error:
        raise ValueError(f"{error}{_whole_besides(path, folder)}") from error


def read_config(path: Path) -> EncoderConfig:
    """Read the config of a checkpoint as `read` does, but no weights if it is a folder."""
    return read_folder_config(encoder_folder(path)) if path.is_dir() else read(path).config


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

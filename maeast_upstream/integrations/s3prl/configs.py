"""Finds and reads the configs of s3prl's tasks in configs/superb/; s3prl's wheel does not contain its own."""

from pathlib import Path
from typing import Any

from maeast_upstream.storage.packaged import configs_folder
from maeast_upstream.storage.text import read_yaml


def config_path(name: str) -> Path:
    """The config of a name: a task as ``-d`` names it, or one of the paper's settings.

    Raises:
        ValueError: no config has that name; the message lists those that exist.
    """
    folder = configs_folder() / "superb"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(config.stem for config in folder.glob("*.yaml")))
        raise ValueError(f"no config for the task {name!r}; give a file after -c, or one of {known}")
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Read a config as s3prl does.

    Raises:
        ValueError: the file is missing, or not YAML with named sections.
    """
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected sections runner, optimizer and downstream_expert")
    return config

"""The YAMLs of s3prl's tasks in configs/superb/: s3prl's wheel leaves its own out."""

import importlib.resources
from pathlib import Path
from typing import Any

import yaml


def config_path(name: str) -> Path:
    """The file for a task as ``-d`` calls it, or for one of the paper's settings.

    Raises:
        ValueError: there is none; lists those that there are.
    """
    folder = Path(str(importlib.resources.files("maeast_upstream.configs"))) / "superb"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in folder.glob("*.yaml")))
        raise ValueError(f"no config for the task {name!r}; give one with -c, or take one of {known}")
    return path


def read_config(path: Path) -> dict[str, Any]:
    """A config as s3prl reads it.

    Raises:
        ValueError: not a file, not YAML, not sections with names.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected sections runner, optimizer and downstream_expert")
    return config

"""Weights on disk: our own folders, pretraining runs, published files, names and hub ids. No code in them is run."""

from maeast_upstream.checkpoint.folder import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Loaded,
    package_version,
    repair,
    save_folder,
    save_published,
    save_state,
)
from maeast_upstream.checkpoint.loading import BUNDLED, read, read_config, read_published, resolve

__all__ = [
    "BUNDLED",
    "CONFIG_NAME",
    "WEIGHTS_NAME",
    "Loaded",
    "package_version",
    "read",
    "read_config",
    "read_published",
    "repair",
    "resolve",
    "save_folder",
    "save_published",
    "save_state",
]

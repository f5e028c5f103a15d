"""Weights on disk: our own folders, pretraining runs, published files, names and hub ids. No code in them is run."""

from typing import TYPE_CHECKING

from maeast_upstream.lazy import lazily

if TYPE_CHECKING:
    from maeast_upstream.checkpoint.folder import (
        Loaded,
        package_version,
        repair,
        save_folder,
        save_published,
        save_state,
    )
    from maeast_upstream.checkpoint.layout import CONFIG_NAME, WEIGHTS_NAME
    from maeast_upstream.checkpoint.loading import read, read_config, read_published
    from maeast_upstream.checkpoint.places import BUNDLED, resolve

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
_MODULES = {
    "folder": ("Loaded", "package_version", "repair", "save_folder", "save_published", "save_state"),
    "layout": ("CONFIG_NAME", "WEIGHTS_NAME"),
    "loading": ("read", "read_config", "read_published"),
    "places": ("BUNDLED", "resolve"),
}
__getattr__ = lazily(__name__, {name: f"{module}:{name}" for module, names in _MODULES.items() for name in names})

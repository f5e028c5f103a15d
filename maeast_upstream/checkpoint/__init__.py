"""Weights on disk: our own folders, pretraining runs, published files, names and hub ids. No code in them is run."""

from typing import TYPE_CHECKING

from maeast_upstream.lazy import lazily

if TYPE_CHECKING:
    from maeast_upstream.checkpoint.card import Card
    from maeast_upstream.checkpoint.folder import (
        Loaded,
        package_version,
        repair,
        save_folder,
        save_published,
        save_state,
    )
    from maeast_upstream.checkpoint.layout import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
    from maeast_upstream.checkpoint.loading import read, read_config, read_published
    from maeast_upstream.checkpoint.places import BUNDLED, resolve
    from maeast_upstream.checkpoint.projection import PROJECTION_NAME, Projection, fit_projection
    from maeast_upstream.checkpoint.publishing import card_for_copy, card_of, edited_on_hub
    from maeast_upstream.checkpoint.whitening import Whitening, fit_whitening

__all__ = [
    "BUNDLED",
    "CARD_NAME",
    "CONFIG_NAME",
    "PROJECTION_NAME",
    "WEIGHTS_NAME",
    "Card",
    "Loaded",
    "Projection",
    "Whitening",
    "card_for_copy",
    "card_of",
    "edited_on_hub",
    "fit_projection",
    "fit_whitening",
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
    "card": ("Card",),
    "folder": ("Loaded", "package_version", "repair", "save_folder", "save_published", "save_state"),
    "layout": ("CARD_NAME", "CONFIG_NAME", "WEIGHTS_NAME"),
    "loading": ("read", "read_config", "read_published"),
    "places": ("BUNDLED", "resolve"),
    "projection": ("PROJECTION_NAME", "Projection", "fit_projection"),
    "publishing": ("card_for_copy", "card_of", "edited_on_hub"),
    "whitening": ("Whitening", "fit_whitening"),
}
__getattr__ = lazily(__name__, {name: f"{module}:{name}" for module, names in _MODULES.items() for name in names})

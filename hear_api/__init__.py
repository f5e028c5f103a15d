"""HEAR's interface over MAE-AST encoders: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hear_api.model import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model

__all__ = [
    "HearModel",
    "get_scene_embeddings",
    "get_timestamp_embeddings",
    "load_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the commands' --help does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module 'hear_api' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module("hear_api.model"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

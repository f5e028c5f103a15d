"""HEAR's interface over MAE-AST encoders: `load_model`, `get_scene_embeddings`, `get_timestamp_embeddings`."""

from hear_api.model import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model

__all__ = [
    "HearModel",
    "get_scene_embeddings",
    "get_timestamp_embeddings",
    "load_model",
]

"""Embeds many audio files into a table."""

from typing import TYPE_CHECKING

from maeast_upstream.lazy import lazily

if TYPE_CHECKING:
    from maeast_upstream.extract.api import Embedder, embed_files

__all__ = ["Embedder", "embed_files"]
__getattr__ = lazily(__name__, {name: f"api:{name}" for name in __all__})

"""Embeds many audio files into a table."""

from maeast_upstream.extract.api import Embedder, embed_files

__all__ = ["Embedder", "embed_files"]

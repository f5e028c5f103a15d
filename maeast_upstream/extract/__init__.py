"""Many audio files to a table of embeddings."""

from maeast_upstream.extract.api import Embedder, embed_files

__all__ = ["Embedder", "embed_files"]

"""Similar sounds: `search` finds them in a table of embeddings; duplicates and clusters of a collection."""

import importlib
from typing import Any

_PLACES = {
    "Clusters": "clustering",
    "Duplicates": "deduplication",
    "Hit": "hits",
    "cluster": "clustering",
    "duplicates": "deduplication",
    "search": "searching",
}
"""For each public name, its module, which is imported when the name is first used."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that a command's --help does not import torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'maeast_upstream.similarity' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"maeast_upstream.similarity.{_PLACES[name]}"), name)
    return value

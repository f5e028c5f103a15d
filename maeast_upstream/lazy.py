"""Public names of a package that are imported when they are first used, so that its other modules load without them."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: Its ``__name__``.
        places: For each public name ``module:name``, the module inside the package and the name there.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, there = places[name].partition(":")
        value = getattr(importlib.import_module(f"{package}.{module}"), there)
        setattr(sys.modules[package], name, value)
        return value

    return get

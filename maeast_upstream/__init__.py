"""MAE-AST audio encoders: `load_model()` returns an `Encoder`; `Encoder.encode()` turns waveforms into features."""

import importlib
from typing import TYPE_CHECKING, Any

from maeast_upstream.version import __version__

if TYPE_CHECKING:
    from maeast_upstream.encoder import Encoded, Encoder, load_model
    from maeast_upstream.readout import Readout

__all__ = ["Encoded", "Encoder", "Readout", "__version__", "load_model"]

_MODULES = {
    "Encoded": "encoder",
    "Encoder": "encoder",
    "load_model": "encoder",
    "Readout": "readout",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that processes which only decode audio do not load torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'maeast_upstream' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"maeast_upstream.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

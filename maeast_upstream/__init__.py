"""MAE-AST audio encoders: `load_model()` gives an `Encoder`; `Encoder.encode()` turns waveforms into features."""

from maeast_upstream.encoder import Encoded, Encoder, load_model
from maeast_upstream.readout import Readout
from maeast_upstream.version import __version__

__all__ = ["Encoded", "Encoder", "Readout", "__version__", "load_model"]

"""An encoder for X-ARES: ``python -m xares.run hear_api/xares.py tasks/esc50_task.py``.

X-ARES turns both paths into module names, so that it imports the installed modules, wherever the command runs. Without
a GPU it needs ``--max-jobs 0``. A time step is one token, while HEAR's at 40 ms is the mean of four:
see `TimeGrid.averaged`.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maeast_upstream import load_model
from maeast_upstream.fingerprint import results_key
from maeast_upstream.readout import combine_layers
from maeast_upstream.time_grid import FINE_HOP_MS

CHECKPOINT_VARIABLE = "MAEAST_CHECKPOINT"
"""Environment variable with the checkpoint, since X-ARES creates its encoder without arguments."""


class MaeAstEncoder(nn.Module):
    """Gives X-ARES the time steps of the checkpoint's readout. X-ARES names its results after this class."""

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        """Load a model.

        Args:
            checkpoint: a checkpoint as for `load_model`; None for that of MAEAST_CHECKPOINT, or else the bundled one.
        """
        super().__init__()
        read_by_soundfile()
        self.model = load_model(checkpoint or os.environ.get(CHECKPOINT_VARIABLE) or None)
        self.sampling_rate = self.model.sample_rate
        native = 1000 * self.model.hop_samples / self.sampling_rate
        self.hop_size_in_ms = min(native, FINE_HOP_MS)
        self.output_dim = self(torch.zeros(1, 1)).shape[2]
        digest = results_key(self.model)
        # under the same class name X-ARES would reuse the scores of another checkpoint; the name must end in Encoder
        self.__class__ = type(f"MaeAst-{digest[:8]}-Encoder", (type(self),), {})

    def forward(self, audio: Tensor) -> Tensor:
        """Encode (B, S) or (S,) waveforms at ``sampling_rate`` as (B, T, output_dim), a step per ``hop_size_in_ms``."""
        readout = self.model.config.readout
        encoded = self.model.encode(
            audio[None] if audio.ndim == 1 else audio,
            layers=readout.layers(self.model.num_layers),
            mel=readout.mel,
            hop_ms=self.hop_size_in_ms,
        )
        return combine_layers(encoded.hidden_states, readout.layer)


def read_by_soundfile() -> None:
    """Replace ``torchaudio.load``, which X-ARES uses, if torchcodec is missing.

    torchaudio needs torchcodec and FFmpeg's libraries from 2.9 on; without them X-ARES silently drops every clip.
    """
    torchaudio = sys.modules.get("torchaudio")
    if torchaudio is not None and importlib.util.find_spec("torchcodec") is None:
        torchaudio.load = load  # type: ignore[attr-defined]


def load(file: Any, *_: Any, **__: Any) -> tuple[Tensor, int]:
    """Read a path or binary file as (channels, samples) float32 in [-1, 1], and its sample rate."""
    import soundfile

    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), int(rate)

"""A representation for EVAR (github.com/nttcslab/eval-audio-repr), whose own file is one import, see `docs/hear.md`."""

from typing import Any

import torch
from torch import Tensor

from maeast_upstream import load_model
from maeast_upstream.config import scene_width
from maeast_upstream.readout import combine_layers

try:
    from evar.ar_base import BaseAudioRepr
except ImportError as error:
    message = f"EVAR cannot be imported ({error}): run this in the folder of its checkout"
    raise type(error)(message, name=error.name) from error


class AR_MaeAst(BaseAudioRepr):  # type: ignore[misc]  # noqa: N801  # EVAR's way to name one
    """Gives EVAR scene embeddings, and time steps. Its weights are trainable, for EVAR's fine-tuning."""

    def __init__(self, cfg: Any) -> None:
        """Load a model.

        Args:
            cfg: EVAR's settings. ``weight_file`` names a checkpoint as for `load_model`, empty for the bundled one;
                ``sample_rate`` and ``feature_d`` must be those of the model.

        Raises:
            ValueError: They are others.
        """
        super().__init__(cfg=cfg)
        self.backbone = load_model(cfg.get("weight_file") or None).requires_grad_(True)
        model = {"sample_rate": self.backbone.sample_rate, "feature_d": self.feature_d}
        for name, expected in model.items():
            if cfg.get(name, expected) != expected:
                raise ValueError(
                    f"{name} must be {expected} for this checkpoint, got {cfg[name]}: change EVAR's config"
                )

    @property
    def feature_d(self) -> int:
        """The dimensions of an embedding."""
        return scene_width(self.backbone.config, self.backbone.config.readout)

    def encode_frames(self, batch_audio: Tensor) -> Tensor:
        """Encode (B, S) waveforms at 16 kHz as (B, D, T) time steps of the checkpoint's readout."""
        readout = self.backbone.config.readout
        encoded = self.backbone.encode(
            batch_audio, layers=readout.layers(self.backbone.num_layers), mel=readout.mel, hop_ms=readout.hop_ms
        )
        return combine_layers(encoded.hidden_states, readout.layer).transpose(1, 2)

    def forward(self, batch_audio: Tensor) -> Tensor:
        """Embed (B, S) waveforms at 16 kHz as (B, feature_d)."""
        return torch.as_tensor(self.backbone.embed(batch_audio))

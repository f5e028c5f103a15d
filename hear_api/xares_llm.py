"""An encoder for XARES-LLM: ``python -m xares_llm.run hear_api.xares_llm.MaeAstEncoder task1 task1``.

XARES-LLM feeds an encoder's time steps to a language model that it trains. It keeps that model and its scores under
the name of this class, whatever the checkpoint is, and takes what it finds there: give each checkpoint an
``output_dir`` of its own, see `docs/hear.md`.
"""

import copy
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from maeast_upstream import encoder as encoders
from maeast_upstream.config import step_width
from maeast_upstream.readout import combine_layers
from maeast_upstream.time_grid import FINE_HOP_MS

CHECKPOINT_VARIABLE = "MAEAST_CHECKPOINT"
"""Environment variable with the checkpoint, if the arguments name none; the same as for X-ARES."""


class MaeAstEncoder(nn.Module):
    """Gives XARES-LLM the time steps of the checkpoint's readout, and which of them belong to a clip."""

    def __init__(self, checkpoint: str | Path | None = None, hop_ms: float | None = None) -> None:
        """Load a model. XARES-LLM passes what ``--model_args`` holds.

        Args:
            checkpoint: a checkpoint as for `load_model`; None for that of MAEAST_CHECKPOINT, or else the bundled one.
            hop_ms: distance of the time steps; None for 40 ms (patch models) or 20 ms (frame models). The model's own,
                160 ms for patch models, gives the language model a quarter of the tokens.
        """
        super().__init__()
        with torch.device("cpu"):  # transformers builds a model that it loads on "meta", where weights have no values
            self.model = encoders.load_model(checkpoint or os.environ.get(CHECKPOINT_VARIABLE) or None)
        store_constants(self.model)
        native = 1000 * self.model.hop_samples / self.model.sample_rate
        self.hop_ms = min(native, FINE_HOP_MS) if hop_ms is None else float(hop_ms)
        self.model.grid(self.hop_ms)  # refuses a hop that the model does not have
        self.output_dim = step_width(self.model.config, self.model.config.readout)

    def forward(self, audio: Tensor, audio_attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode waveforms.

        Args:
            audio: (B, S) or (S,) float32 at 16 kHz.
            audio_attention_mask: (B, S), 1 for the samples of a clip and 0 for the padding after them; None where all
                clips have S samples.

        Returns:
            (B, T, output_dim) float32 time steps, zero where padded, and their (B, T) int64 mask of the same kind.

        Raises:
            ValueError: padding stands before samples.
        """
        audio = audio[None] if audio.ndim == 1 else audio
        readout = self.model.config.readout
        encoded = self.model.encode(
            audio,
            None if audio_attention_mask is None else lengths_of(audio_attention_mask),
            layers=readout.layers(self.model.num_layers),
            mel=readout.mel,
            hop_ms=self.hop_ms,
        )
        steps = combine_layers(encoded.hidden_states, readout.layer)
        lengths = encoded.lengths.to(steps.device)
        return steps, (torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]).long()


def store_constants(model: encoders.Encoder) -> None:
    """Keep the front end's constants and the positions in state dicts: transformers empties what it does not load."""
    network = model.network
    network.decoder_positions = copy.deepcopy(network.decoder_positions)  # one tensor may have one name in a file
    for module in model.modules():
        for name, value in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, value)


def lengths_of(mask: Tensor) -> Tensor:
    """Return the (B,) samples of each clip, at least 1, from a mask as `MaeAstEncoder.forward` takes it."""
    mask = (mask[None] if mask.ndim == 1 else mask).bool()
    lengths = mask.sum(dim=1)
    if not torch.equal(mask, torch.arange(mask.shape[1], device=mask.device) < lengths[:, None]):
        raise ValueError("audio_attention_mask has padding before samples; expected all padding at the end of a clip")
    return lengths.clamp(min=1)

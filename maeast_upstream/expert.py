"""`UpstreamExpert`: an `Encoder` with the interface of an s3prl upstream, for SUPERB. It does not import s3prl.

Shapes: B clips, T time steps, C features of a time step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig, read_section
from maeast_upstream.encoder import load_model
from maeast_upstream.readout import Mel
from maeast_upstream.storage.text import read_yaml
from maeast_upstream.time_grid import TimeGrid
from maeast_upstream.waveforms import to_clips

PRETRAINING_PARTS = (
    "encoder_mask",
    "decoder_embed",
    "decoder_mask",
    "decoder_positions",
    "decoder",
    "reconstruction_head",
    "classification_head",
)
"""Parts of the network that an upstream never uses; they would only enlarge memory and s3prl's checkpoints."""
POSITION_TABLES = ("positions.table", "sine_pos_embed.pe")
"""Endings of the names of sinusoids in other files; they are computed and not loaded."""


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """Options in the YAML file of s3prl's ``-g``."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the matrix products, independent of the runner's fp16 setting; features are float32."""
    mel: Mel = "concat"
    """The M mel patches of a time step: concatenated, or averaged."""
    hop_ms: float | None = None
    """Distance of time steps: None for the model's own; 40 for patch models."""
    repeat: int = 1
    """Copies of each time step, for heads that need many steps of short clips; the rate rises by the same factor."""

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any] | None, **changes: Any) -> "UpstreamOptions":
        """Read the options from a YAML file or a mapping; keywords override them.

        Raises:
            ValueError: no such file, not a mapping, an unknown name or a wrong value.
        """
        where = "upstream options"
        if isinstance(source, str | Path):
            where, source = str(source), read_yaml(Path(source).expanduser())
        if not isinstance(source, Mapping | None):
            raise ValueError(f"{where}: expected a mapping with precision, mel, hop_ms or repeat, got {quote(source)}")
        values = {**(source or {}), **changes}
        if values.get("hop_ms") == "native":
            values["hop_ms"] = None
        return read_section(cls, values, where)

    def downsample_rate(self, config: EncoderConfig) -> int:
        """Samples at 16 kHz between two time steps of a model; ValueError if it does not support the options."""
        hop = TimeGrid.with_hop(config.model.patch_frames, self.hop_ms).hop_samples
        if self.repeat < 1 or hop % self.repeat:
            raise ValueError(f"repeat must divide the {hop} samples of a time step, got {self.repeat}")
        return hop // self.repeat


class UpstreamExpert(nn.Module):
    """An encoder as an s3prl upstream.

    A clip's features do not depend on the other clips of a batch. In train mode (s3prl's ``-f``) dropout is on and
    gradients reach every parameter; the normalisation's statistics stay as they are, and no layer is ever left out.
    """

    def __init__(
        self,
        ckpt: str | Path | None = None,
        model_config: str | Path | Mapping[str, Any] | None = None,
        refresh: bool = False,
        **options: Any,
    ) -> None:
        """Load a checkpoint.

        Args:
            ckpt: a source of `load_model`; None for the checkpoint in the package.
            model_config: a YAML file of `UpstreamOptions`, or a mapping.
            refresh: ignored; a downloaded checkpoint is verified by its hash instead.
            options: fields of `UpstreamOptions`; they override ``model_config``.

        Raises:
            ValueError: no such checkpoint; an unknown option, or one that the model does not support.
        """
        super().__init__()
        self.options = UpstreamOptions.read(model_config, **options)
        self.encoder = load_model(ckpt, precision=self.options.precision)
        for part in PRETRAINING_PARTS:
            delattr(self.encoder.network, part)
        # as of any s3prl upstream: the runner turns torch's grad mode off where it does not fine-tune
        self.encoder.requires_grad_(True)
        self._rate = self.options.downsample_rate(self.encoder.config)
        self.register_load_state_dict_pre_hook(_drop_unused_weights)  # type: ignore[no-untyped-call]

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples at 16 kHz between two time steps, the same for every layer."""
        return self._rate

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Features of all layers.

        Args:
            wavs: one (S_i,) float tensor per clip, mono at 16 kHz in [-1, 1], on any device.

        Returns:
            hidden_states, one (B, T, C) float32 tensor per layer, and last_hidden_state, the last of them. T is the
            longest clip's ``ceil(S / rate)``; rows past a clip's own time steps repeat its last one.

        Raises:
            ValueError: as in `Encoder.encode`.
        """
        repeat = self.options.repeat
        clips = to_clips(wavs)
        total = -(-max(len(clip) for clip in clips) // self._rate)
        encoder = self.encoder
        layers, grid = encoder.kept_layers(None), encoder.grid(self.options.hop_ms)
        encoded = encoder.encode_clips(
            clips, layers, grid, mel=self.options.mel, steps=-(-total // repeat), past="repeat"
        )
        states = encoded.hidden_states
        if repeat > 1:
            states = [state.repeat_interleave(repeat, dim=1)[:, :total] for state in states]
        return {"hidden_states": states, "last_hidden_state": states[-1]}


def _drop_unused_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop weights that the upstream does not have from a state dict that is about to be loaded."""
    unused = tuple(f"{prefix}encoder.network.{part}" for part in PRETRAINING_PARTS)
    for name in [name for name in state if name.startswith(unused) or name.endswith(POSITION_TABLES)]:
        del state[name]

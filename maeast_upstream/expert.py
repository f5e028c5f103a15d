"""`UpstreamExpert`: what SUPERB's toolkit s3prl asks of an upstream, over `Encoder`. Needs no s3prl itself.

Shapes: B clips, T time steps, C features of a time step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor, nn

from maeast_upstream.batching import split_clips
from maeast_upstream.config import read_section
from maeast_upstream.encoder import load_model
from maeast_upstream.readout import Mel

PRETRAINING_PARTS = (
    "encoder_mask",
    "decoder_embed",
    "decoder_mask",
    "decoder_positions",
    "decoder",
    "reconstruction_head",
    "classification_head",
)
"""Of the network; an upstream never uses them, so that they would only fill memory and s3prl's checkpoints."""
POSITION_TABLES = ("positions.table", "sine_pos_embed.pe")
"""Ends of the names under which older files store the sinusoids, which are computed here."""


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """What a YAML after s3prl's ``-g`` may hold."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the matrix products, whatever the runner's own fp16 setting says; features are float32."""
    mel: Mel = "concat"
    """The M mel patches of an instant: side by side, or averaged."""
    hop_ms: float | None = None
    """Distance of time steps: None for the model's own; 40 for patch models."""
    repeat: int = 1
    """How often each time step is given: heads that want many steps run on short clips, at `repeat` times the rate."""

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any] | None, **changes: Any) -> "UpstreamOptions":
        """From a YAML file or a mapping, changed by keywords.

        Raises:
            ValueError: no such file, not a mapping, or a wrong name or value in it.
        """
        where = "upstream options"
        if isinstance(source, str | Path):
            where = str(source)
            try:
                source = yaml.safe_load(Path(source).expanduser().read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise ValueError(f"{where}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        if not isinstance(source, Mapping | None):
            raise ValueError(f"{where}: expected a mapping with precision, mel, hop_ms or repeat, got {source!r}")
        values = {**(source or {}), **changes}
        if values.get("hop_ms") == "native":
            values["hop_ms"] = None
        return read_section(cls, values, where)


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
            ckpt: what `load_model` takes; None for the checkpoint in the package.
            model_config: a YAML file of `UpstreamOptions`, or a mapping.
            refresh: of no effect: the published checkpoints are compared with the hash of their download instead.
            options: fields of `UpstreamOptions`; they win over ``model_config``.

        Raises:
            ValueError: no such checkpoint; an unknown option, or one that does not go with the model.
        """
        super().__init__()
        self.options = UpstreamOptions.read(model_config, **options)
        self.encoder = load_model(ckpt, precision=self.options.precision)
        for part in PRETRAINING_PARTS:
            delattr(self.encoder.network, part)
        # as of any s3prl upstream: the runner turns torch's grad mode off where it does not fine-tune
        self.encoder.requires_grad_(True)
        hop = self.encoder.grid(self.options.hop_ms).hop_samples
        if self.options.repeat < 1 or hop % self.options.repeat:
            raise ValueError(f"repeat must divide the {hop} samples of a time step, got {self.options.repeat}")
        self._rate = hop // self.options.repeat
        self.register_load_state_dict_pre_hook(_without_what_is_not_kept)  # type: ignore[no-untyped-call]

    def get_downsample_rates(self, key: str | None = None) -> int:
        """Samples at 16 kHz between two time steps, the same for every layer."""
        return self._rate

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Features of all layers.

        Args:
            wavs: one (S_i,) float tensor per clip, mono at 16 kHz in [-1, 1], on any device.

        Returns:
            hidden_states, one (B, T, C) float32 tensor per layer, and last_hidden_state, the last of them. T is the
            longest clip's ``ceil(S / rate)``; steps past what the encoder gives for a clip repeat its last one.

        Raises:
            ValueError: a clip is empty or not one-dimensional.
        """
        repeat = self.options.repeat
        clips = split_clips(wavs, None)
        total = -(-max(len(clip) for clip in clips) // self._rate)
        encoded = self.encoder.encode(
            clips, mel=self.options.mel, hop_ms=self.options.hop_ms, steps=-(-total // repeat), past="repeat"
        )
        states = encoded.hidden_states
        if repeat > 1:
            states = [state.repeat_interleave(repeat, dim=1)[:, :total] for state in states]
        return {"hidden_states": states, "last_hidden_state": states[-1]}


def _without_what_is_not_kept(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a state dict is loaded: whatever else an encoder's file holds is no error."""
    unused = tuple(f"{prefix}encoder.network.{part}" for part in PRETRAINING_PARTS)
    for name in [name for name in state if name.startswith(unused) or name.endswith(POSITION_TABLES)]:
        del state[name]

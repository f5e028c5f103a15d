"""The typed sections of a checkpoint's config.json, read strictly."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from maeast_upstream.checks import LARGEST, check_numbers, check_plain, quote
from maeast_upstream.readout import Readout

MAX_WIDTH, MAX_DEPTH, MAX_MELS, MAX_PATCH_FRAMES = 1 << 16, 1000, 1024, 1000
"""Limits of a network's sizes, far above those of any: a config cannot ask for any amount of memory."""
LARGEST_MEAN, SMALLEST_STD, LARGEST_STD = 1e3, 1e-3, 1e3
"""Limits of the normalization: log-mel energies lie between -16 and 30."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network. Defaults: the paper's 12-layer patch model."""

    patch_frames: int = 16
    """Token length along time, in fbank frames of 10 ms."""
    patch_mels: int = 16
    """Token height along frequency, in mel bins; must divide num_mel_bins."""
    num_mel_bins: int = 128
    """Mel bins of the spectrogram."""
    embed_dim: int = 768
    """Encoder width D."""
    depth: int = 12
    """Encoder layers."""
    num_heads: int = 12
    """Encoder attention heads; must divide embed_dim."""
    ffn_dim: int = 3072
    """Width inside the encoder's feed-forward networks."""
    decoder_dim: int = 768
    """Decoder width."""
    decoder_depth: int = 2
    """Decoder layers."""
    decoder_heads: int = 12
    """Decoder attention heads; must divide decoder_dim."""
    decoder_ffn_dim: int = 3072
    """Width inside the decoder's feed-forward networks."""
    decoder_attention: Literal["self", "cross"] = "self"
    """self: all decoder tokens attend to each other, as published. cross: masked tokens attend to visible ones only,
    which costs less (CrossMAE)."""
    positions: Literal["sinusoid", "none"] = "sinusoid"
    """Position embedding of the tokens: a fixed sinusoid over the flat token index, or none."""
    dropout: float = 0.1
    """Dropout after attention, after the feed-forward network and before the first layer."""
    attention_dropout: float = 0.1
    """Dropout on attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward network."""
    input_dropout: float = 0.1
    """Dropout on projected tokens, in pretraining only."""
    layerdrop: float = 0.05
    """Probability of skipping an encoder layer, in pretraining only."""
    checkpoint_activations: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations: less memory, more time."""

    def __post_init__(self) -> None:
        widths = ("num_heads", "embed_dim", "ffn_dim", "decoder_heads", "decoder_dim", "decoder_ffn_dim")
        mels, depth = (1, MAX_MELS), (1, MAX_DEPTH)
        check_numbers(self, **dict.fromkeys(widths, (1, MAX_WIDTH)), patch_frames=(1, MAX_PATCH_FRAMES))
        check_numbers(self, patch_mels=mels, num_mel_bins=mels, depth=depth, decoder_depth=(0, MAX_DEPTH))
        for name in ("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is a probability below 1, got {getattr(self, name)}")
        for divisor, dividend in (
            ("patch_mels", "num_mel_bins"),
            ("num_heads", "embed_dim"),
            ("decoder_heads", "decoder_dim"),
        ):
            if getattr(self, dividend) % getattr(self, divisor):
                raise ValueError(
                    f"{divisor} {getattr(self, divisor)} does not divide {dividend} {getattr(self, dividend)}"
                )
        if odd := [name for name in ("embed_dim", "decoder_dim") if getattr(self, name) % 2]:
            raise ValueError(f"{odd[0]} must be even for the sinusoid, got {getattr(self, odd[0])}")
        for name, allowed in (("positions", ("sinusoid", "none")), ("decoder_attention", ("self", "cross"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {quote(getattr(self, name))}")
        if self.decoder_attention == "cross" and self.decoder_depth == 0:
            raise ValueError("decoder_attention cross and decoder_depth 0 do not go together: drop one of them")

    @property
    def mel_patches(self) -> int:
        """M, the tokens of one time step."""
        return self.num_mel_bins // self.patch_mels

    @property
    def patch_dim(self) -> int:
        """P, the spectrogram values of one token."""
        return self.patch_frames * self.patch_mels


def _shape(
    width: int,
    heads: int,
    depth: int = 12,
    decoder_dim: int | None = None,
    decoder_heads: int | None = None,
) -> dict[str, int]:
    decoder_dim = decoder_dim or width
    return {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "ffn_dim": 4 * width,
        "decoder_dim": decoder_dim,
        "decoder_heads": decoder_heads or heads,
        "decoder_ffn_dim": 4 * decoder_dim,
    }


PRESETS: dict[str, dict[str, int]] = {
    "tiny": _shape(192, 3, decoder_dim=128, decoder_heads=2),
    "small": _shape(384, 6),
    "base": _shape(768, 12),
    "base6": _shape(768, 12, depth=6),
    "large": _shape(1024, 16, depth=24),
}
"""Sizes by name. The decoder of tiny is narrow, so that its file has less than 12 MB in fp16."""


TOKENS: dict[str, dict[str, int]] = {
    "patch": {"patch_frames": 16, "patch_mels": 16},
    "frame": {"patch_frames": 2, "patch_mels": 128},
}
"""The paper's two kinds of tokens."""


def preset(size: str, tokens: str = "patch", **overrides: Any) -> ModelConfig:
    """The configuration of a named size with patch or frame tokens; ``overrides`` are fields of `ModelConfig`."""
    if size not in PRESETS or tokens not in TOKENS:
        raise ValueError(
            f"unknown preset {size!r} with tokens {tokens!r}: sizes are {', '.join(PRESETS)}; tokens "
            f"are {', '.join(TOKENS)}"
        )
    return ModelConfig(**{**PRESETS[size], **TOKENS[tokens], **overrides})


@dataclass(frozen=True, kw_only=True)
class FrontendConfig:
    """How a waveform becomes a log-mel spectrogram."""

    num_mel_bins: int = 128
    """Mel bins between 20 Hz and 8 kHz."""
    window: Literal["povey", "hanning"] = "povey"
    """Kaldi's window (Hann to the power 0.85), or SSAST's (Hann)."""
    remove_mean: bool = False
    """Subtract each clip's mean from its waveform first, as SSAST's loader does."""

    def __post_init__(self) -> None:
        check_numbers(self, num_mel_bins=(1, MAX_MELS))
        if self.window not in ("povey", "hanning"):
            raise ValueError(f"window must be povey or hanning, got {quote(self.window)}")


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """One mean and one standard deviation for all mel bins: spectrogram -> (x - mean) / std * scale."""

    mean: float = 0.0
    """Mean of the log-mel spectrogram."""
    std: float = 1.0
    """Its standard deviation."""
    scale: float = 0.5
    """The standard deviation after normalization; 0.5 in the paper."""

    def __post_init__(self) -> None:
        deviation = (SMALLEST_STD, LARGEST_STD)
        check_numbers(self, mean=(-LARGEST_MEAN, LARGEST_MEAN), std=deviation, scale=deviation)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the weights come from."""

    data: str = ""
    """The training data."""
    steps: int = 0
    """Optimizer steps (for the published checkpoints: updates of the batch normalization)."""
    package: str = ""
    """Version of the package that wrote them."""
    parents: list[str] = field(default_factory=list)
    """Checkpoints or files from which they were made."""
    published: dict[str, Any] = field(default_factory=dict)
    """Values that only the published format holds, kept so that a checkpoint can be converted back."""

    def __post_init__(self) -> None:
        check_numbers(self, steps=(0, LARGEST))
        check_plain("published", self.published)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The whole of config.json."""

    model: ModelConfig = field(default_factory=ModelConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    normalisation: Normalisation = field(default_factory=Normalisation)
    readout: Readout = field(default_factory=Readout)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if self.model.num_mel_bins != self.frontend.num_mel_bins:
            raise ValueError(
                f"model.num_mel_bins {self.model.num_mel_bins} is not the front end's {self.frontend.num_mel_bins}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries for JSON."""
        return dataclasses.asdict(self) | {"readout": self.readout.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> "EncoderConfig":
        """The inverse of `to_dict`; a missing key takes its default.

        Raises:
            ValueError: an unknown key, a wrong type or a value out of range, naming the key.
        """
        return read_section(cls, data, "config")


SectionT = TypeVar("SectionT")


def read_section(kind: type[SectionT], data: Any, where: str) -> SectionT:
    """Build a dataclass from plain data, refusing unknown keys and wrong types by name.

    Args:
        kind: a dataclass whose fields are plain values, lists of str, mappings, or such dataclasses again.
        data: parsed JSON.
        where: the section's name, for messages.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a mapping, got {type(data).__name__}")
    types = get_type_hints(kind)
    unknown = sorted(set(data) - set(types), key=str)
    if unknown:
        raise ValueError(f"{where} has unknown key {quote(unknown[0])}; it may have {', '.join(types)}")
    values = {name: _read_value(types[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return read_section(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise ValueError(f"{where} must be one of {', '.join(map(str, get_args(kind)))}, got {quote(value)}")
        return value
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a mapping, got {quote(value)}")
        return value
    if get_origin(kind) is list:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{where} must be a list of strings, got {quote(value)}")
        return value
    allowed = get_args(kind) or (kind,)  # a union, as in int | str | None
    if float in allowed and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if a is type(None) else a.__name__ for a in allowed)
        raise ValueError(f"{where} must be {names}, got {quote(value)}")
    return value


def scene_width(config: EncoderConfig, readout: Readout) -> int:
    """E, the length of a scene embedding."""
    if readout.dims is not None:
        return readout.dims
    return step_width(config, readout) * (1 if readout.pool == "mean" else 2)


def step_width(config: EncoderConfig, readout: Readout) -> int:
    """C, the length of a timestamp embedding."""
    mel = config.model.mel_patches if readout.mel == "concat" else 1
    layers = config.model.depth if readout.layer == "all" else 1
    return config.model.embed_dim * mel * layers

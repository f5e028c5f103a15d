"""What a checkpoint says of itself: the typed sections of config.json, read strictly."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig
from maeast_upstream.readout import Readout


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """One mean and one deviation for all mel bins: spectrogram -> (x - mean) / std * scale."""

    mean: float = 0.0
    """Mean of the log-mel spectrogram."""
    std: float = 1.0
    """Its standard deviation."""
    scale: float = 0.5
    """The paper's deviation after normalising."""

    def __post_init__(self) -> None:
        if not 0.0 < self.std < math.inf:
            raise ValueError(f"std must be above 0, got {self.std}")
        if not (math.isfinite(self.mean) and math.isfinite(self.scale)):
            raise ValueError(f"mean must be a number, and scale, got {self.mean} and {self.scale}")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights came from."""

    data: str = ""
    """What they were trained on."""
    steps: int = 0
    """Optimiser steps (batch-norm updates, for the published checkpoints)."""
    package: str = ""
    """Version of the package that wrote them."""
    parents: list[str] = field(default_factory=list)
    """Checkpoints or files that they were made from."""
    published: dict[str, Any] = field(default_factory=dict)
    """What only the published format has a place for, kept for the way back to it."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """All of config.json."""

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
        return dataclasses.asdict(self)

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
        kind: a dataclass, its fields plain values, lists of str, mappings, or such dataclasses again.
        data: what JSON gave.
        where: the section's name, for messages.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a mapping, got {type(data).__name__}")
    types = get_type_hints(kind)
    unknown = sorted(set(data) - set(types))
    if unknown:
        raise ValueError(f"{where} has unknown key {unknown[0]!r}; it may have {', '.join(types)}")
    values = {name: _read_value(types[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return read_section(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where} must be one of {', '.join(map(str, get_args(kind)))}, got {value!r}")
        return value
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a mapping, got {value!r}")
        return value
    if get_origin(kind) is list:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{where} must be a list of strings, got {value!r}")
        return value
    allowed = get_args(kind) or (kind,)  # a union, as in int | str | None
    if float in allowed and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if a is type(None) else a.__name__ for a in allowed)
        raise ValueError(f"{where} must be {names}, got {value!r}")
    return value


def scene_width(config: EncoderConfig, readout: Readout) -> int:
    """E, the length of a scene's vector."""
    return step_width(config, readout) * (1 if readout.pool == "mean" else 2)


def step_width(config: EncoderConfig, readout: Readout) -> int:
    """C, the length of a time step's vector."""
    mel = config.model.mel_patches if readout.mel == "concat" else 1
    layers = config.model.depth if readout.layer == "all" else 1
    return config.model.embed_dim * mel * layers

"""The engines, their precisions and their packages by name; importing this loads neither torch nor an engine."""

from dataclasses import dataclass
from typing import Literal, get_args

Engine = Literal["auto", "torch", "openvino", "onnx"]
EnginePrecision = Literal["fp32", "bf16", "fp16", "int8"]

OFFERS: dict[str, tuple[str, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnx": ("fp32",),
}
"""The precisions of each engine, in the order of messages."""
NEEDS = {"torch": (), "openvino": ("openvino",), "onnx": ("onnxruntime", "onnx")}
"""The packages of each engine; the extra has the engine's name."""


@dataclass(frozen=True)
class Choice:
    """The engine that `attach` selected."""

    engine: Engine
    """torch, openvino or onnx: what runs the transformer now."""
    precision: EnginePrecision
    """fp32, bf16, fp16 or int8: of its matrix products."""
    why: str
    """The reason, for people."""

    def __str__(self) -> str:
        return f"engine {self.engine}, {self.precision}: {self.why}"


def check_names(engine: str, precision: str) -> None:
    """ValueError for an unknown engine or precision, or one that the engine lacks; it names those that exist."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    precisions = ("auto", *get_args(EnginePrecision))
    if precision not in precisions:
        raise ValueError(f"precision must be one of {', '.join(precisions)}, got {precision!r}")
    if "auto" not in (engine, precision) and precision not in OFFERS[engine]:
        others = " or ".join(name for name in OFFERS if precision in OFFERS[name])
        raise ValueError(
            f"engine {engine} computes in {', '.join(OFFERS[engine])}, not {precision}; for {precision} take {others}"
        )

"""What runs the transformer: torch (the reference), OpenVINO or ONNX Runtime, chosen by name or by measurement.

``attach(encoder)`` changes only the engine: front end, batches, windows and grids stay the encoder's. An engine that
fails, at its start or in any later call, is replaced by torch, which repeats the failed call; a warning says so once.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from maeast_upstream.batching import BATCH_TOKENS
from maeast_upstream.encoder import Body, Encoder
from maeast_upstream.encoder import Precision as TorchPrecision
from maeast_upstream.engines import timing
from maeast_upstream.engines.graph import noise_batch
from maeast_upstream.engines.streams import shared_threads, side_by_side
from maeast_upstream.modules.positions import STORED_POSITIONS
from maeast_upstream.time_grid import FRAME_MS

Engine = Literal["auto", "torch", "openvino", "onnx"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

OFFERS: dict[str, tuple[str, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16"),
    "onnx": ("fp32", "int8"),
}
"""The precisions of each engine; the order is that of messages."""
NEEDS = {"torch": (), "openvino": ("openvino",), "onnx": ("onnxruntime", "onnx")}
"""The packages of each engine; the extra has the engine's name."""
MIN_SPEEDUP = 1.1
"""An engine is taken over torch where it is at least so much faster, so that noise does not decide."""
MOST_DIFFERENCE = 1e-3
"""Between an engine's float32 outputs and torch's, whose deviation is near 1; beyond it something is broken."""
LEAST_COSINE = 0.99
"""Between the outputs of an engine's narrower products and torch's float32 ones."""
SAMPLE_SECONDS = 10.0
"""Length of the clips that are measured."""

log = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """An engine's numbers are not torch's."""


@dataclass(frozen=True)
class Choice:
    """What `attach` did."""

    engine: Engine
    """torch, openvino or onnx: what runs now."""
    precision: Precision
    """fp32, bf16, fp16 or int8: of its matrix products."""
    why: str
    """The reason, for people."""

    def __str__(self) -> str:
        return f"engine {self.engine}, {self.precision}: {self.why}"


def attach(
    encoder: Encoder,
    engine: Engine = "auto",
    precision: Precision | None = None,
    layers: Sequence[int] | None = None,
    *,
    streams: int = 1,
) -> Choice:
    """Let ``engine`` run the encoder's transformer from now on; its weights must not change afterwards.

    Args:
        encoder: in eval mode, as `load_model` gives it.
        engine: "auto" takes the fastest for this model on this machine, measured when first asked and then remembered
            in the cache folder (`engine_timing.cache_path`). On a GPU that is torch.
        precision: of the matrix products; None for the encoder's own. int8 is ONNX Runtime's.
        layers: the ones that will be asked for, counted from 1, made ready now; None for the last. Others still work.
        streams: calls that `extract` may make side by side, each on its share of torch's threads: more clips a second
            (`streams.streams_on` says how many suit a device), while one alone takes longer.

    Returns:
        What was chosen and why; ``str()`` of it is one line. The encoder's ``body`` is None when torch runs.

    Raises:
        ValueError: an unknown engine or precision, one that do not go together, or a missing package (named).
    """
    precision = precision or encoder.precision
    check_names(engine, precision)
    if encoder.training:
        raise ValueError("an engine runs a frozen encoder: call eval() first")
    keep = sorted(set(layers or [encoder.num_layers]))
    encoder.body = None
    encoder.precision = torch_precision(precision)
    encoder.streams = streams
    with shared_threads(streams):
        if engine == "auto":
            choice = _fastest(encoder, precision, keep)
        elif engine == "torch":
            choice = Choice("torch", precision, "as asked")
        else:
            check_usable(engine, encoder.device)
            choice = _start(encoder, engine, precision, keep, "as asked")
    log.info("%s", choice)
    return choice


def check_names(engine: str, precision: str) -> None:
    """ValueError, naming what there is, for an unknown engine or precision or a pair that nothing offers."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if engine != "auto" and precision not in OFFERS[engine]:
        others = " or ".join(name for name in OFFERS if precision in OFFERS[name])
        raise ValueError(
            f"engine {engine} computes in {', '.join(OFFERS[engine])}, not {precision}; for {precision} take {others}"
        )


def check_usable(engine: str, device: torch.device) -> None:
    """ValueError where the engine's package is missing or the model is not on a CPU."""
    if engine != "torch" and device.type != "cpu":
        raise ValueError(f"engine {engine} runs on the CPU, and the model is on {device}: take torch, or device cpu")
    missing = [package for package in NEEDS[engine] if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"engine {engine} needs the package {missing[0]}: pip install 'maeast-upstream[{engine}]'",
        )


def torch_precision(precision: str) -> TorchPrecision:
    """What torch computes in where it stands in for an engine of ``precision``: fp32 for int8."""
    return "bf16" if precision == "bf16" else "fp16" if precision == "fp16" else "fp32"


class FallbackBody:
    """A `Body` that hands over to torch, aloud and for good, when its engine fails.

    Clips with more tokens than the engine's table of positions has go through torch too, since theirs are computed.
    """

    def __init__(self, encoder: Encoder, engine: str, body: Body) -> None:
        self.engine = engine
        self._encoder = encoder
        self._body = body

    def __call__(self, patches: Tensor, padding: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """(B, N, P), (B, N) or None -> the layers' (B, N, D)."""
        reference = self._encoder.network.features
        if patches.shape[1] > STORED_POSITIONS or self._encoder.body is not self:
            return reference(patches, padding, layers)
        try:
            return self._body(patches, padding, layers)
        except Exception as error:  # engines raise types of their own, and torch can do all that they do
            self._encoder.body = None
            _warn(self.engine, error)
            return reference(patches, padding, layers)


def _fastest(encoder: Encoder, precision: Precision, keep: list[int]) -> Choice:
    """Attach the fastest engine that is installed and has the precision; torch unless another is clearly faster."""
    offering = [name for name in OFFERS if precision in OFFERS[name]]
    usable = [name for name in offering if _is_usable(name, encoder.device)]
    if not usable:
        check_usable(offering[0], encoder.device)
    if len(usable) == 1:
        reason = "nothing else here offers it" if encoder.device.type == "cpu" else f"the model is on {encoder.device}"
        return _start(encoder, cast(Engine, usable[0]), precision, keep, reason)
    key = timing.key_of(encoder.config.model, precision, encoder.streams)
    seconds = timing.remembered(key)
    if seconds is None or not set(usable) >= set(seconds) >= {"torch"}:
        seconds = _measured(encoder, precision, usable)
        timing.remember(key, seconds)
    fastest = min(seconds, key=lambda name: seconds[name])
    if fastest == "torch" or seconds["torch"] < MIN_SPEEDUP * seconds[fastest]:
        return Choice("torch", precision, f"nothing here is clearly faster ({_told(seconds)})")
    return _start(
        encoder,
        cast(Engine, fastest),
        precision,
        keep,
        f"the fastest here ({_told(seconds)})",
    )


def _measured(encoder: Encoder, precision: Precision, engines: list[str]) -> dict[str, float]:
    """Seconds of a batch by each engine that works."""
    config = encoder.config.model
    tokens = round(SAMPLE_SECONDS * 1000 / FRAME_MS) // config.patch_frames * config.mel_patches
    patches, _ = noise_batch(config, max(1, BATCH_TOKENS["cpu"] // tokens), tokens)
    last = [encoder.num_layers]

    def by(body: Body) -> Callable[[], object]:
        def work() -> list[Tensor]:
            with encoder.arithmetic():
                return body(patches, None, last)

        def in_every_stream() -> object:
            return [wait() for wait in [start(work) for _ in range(encoder.streams)]]

        return in_every_stream

    with side_by_side(encoder.streams) as start:
        works = {"torch": by(encoder.network.features)}
        for engine in engines:
            body = None if engine == "torch" else _built(encoder, engine, precision, last)
            if body is None:
                continue
            try:
                by(body)()
            except Exception as error:  # whatever an engine raises, such as memory that a whole batch lacks
                _warn(engine, error)
            else:
                works[engine] = by(body)
        return timing.measure(works)


def _start(encoder: Encoder, engine: Engine, precision: Precision, keep: list[int], why: str) -> Choice:
    """Attach an engine, or say why torch stays."""
    if engine == "torch":
        return Choice("torch", precision, why)
    body = _built(encoder, engine, precision, keep)
    if body is None:
        return Choice("torch", encoder.precision, f"{engine} failed to start")
    encoder.body = FallbackBody(encoder, engine, body)
    return Choice(engine, precision, why)


def _built(encoder: Encoder, engine: str, precision: Precision, keep: list[int]) -> Body | None:
    """The engine's body, compiled and tried on a small batch; None, with a warning, where that fails."""
    try:
        body: Body
        if engine == "openvino":
            module = importlib.import_module("maeast_upstream.engines.openvino")
            body = module.OpenVinoBody(encoder.network, precision, encoder.streams)
        else:
            module = importlib.import_module("maeast_upstream.engines.onnx")
            body = module.OnnxBody(encoder.network, precision)
        _check(encoder, body, precision, keep)
    except Exception as error:  # whatever an engine raises: torch can do all that it does
        _warn(engine, error)
        return None
    return body


def _check(encoder: Encoder, body: Body, precision: str, keep: list[int]) -> None:
    """EngineError where the body's outputs on a padded batch of a second are not torch's."""
    mel = encoder.config.model.mel_patches
    patches, padding = noise_batch(encoder.config.model, clips=2, tokens=6 * mel)
    with torch.no_grad():
        expected = encoder.network.features(patches, padding, keep)
    for one, other in zip(expected, body(patches, padding, keep), strict=True):
        one, other = one[~padding], other[~padding]
        if precision == "fp32" and not (one - other).abs().max() <= MOST_DIFFERENCE:
            raise EngineError(f"its numbers differ from torch's by {(one - other).abs().max():.2g}")
        cosine = F.cosine_similarity(one, other, dim=-1).min()
        if not cosine >= LEAST_COSINE:  # also where it is not a number
            raise EngineError(f"its vectors' cosine with torch's is {cosine:.3f}")


def _is_usable(engine: str, device: torch.device) -> bool:
    try:
        check_usable(engine, device)
    except ValueError:
        return False
    return True


def _warn(engine: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    log.warning("engine %s failed, torch goes on in its place: %s", engine, reason)


def _told(seconds: dict[str, float]) -> str:
    """How much faster than torch each is."""
    others = [f"{name} {seconds['torch'] / value:.2f}x" for name, value in seconds.items() if name != "torch"]
    return f"torch's time over theirs: {', '.join(others) or 'none works'}"

"""Selects what runs the transformer: torch (the reference), OpenVINO or ONNX Runtime, by name or by measurement.

``attach(encoder)`` changes only the engine: front end, batches, windows and grids stay the encoder's. Where an engine
fails, at its start or in a later call, torch replaces it and repeats the failed call; one warning reports it.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from maeast_upstream.batching import BATCH_TOKENS
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines import timing
from maeast_upstream.engines.graph import noise_batch, trial_batch
from maeast_upstream.engines.names import NEEDS, OFFERS, Choice, Engine, EnginePrecision, check_names
from maeast_upstream.engines.streams import shared_threads, stream_pool
from maeast_upstream.inference import Precision, Runtime, Transformer
from maeast_upstream.messages import install_extra, shortened
from maeast_upstream.model import MaeAst
from maeast_upstream.modules.positions import STORED_POSITIONS
from maeast_upstream.time_grid import FRAME_MS

MIN_SPEEDUP = 1.1
"""Minimum speed-up over torch for an engine to be selected, so that noise does not decide."""
MAX_DIFFERENCE = 1e-3
"""Maximum difference between an engine's float32 outputs and torch's, whose standard deviation is near 1."""
MIN_COSINE = {"fp32": 0.99, "bf16": 0.99, "int8": 0.999}
"""Minimum cosine between an engine's outputs in each precision and torch's in float32."""
MEASURED_SECONDS = 10.0
"""Length of the clips on which engines are measured."""

log = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """An engine's numbers differ from torch's."""


def attach(
    encoder: Encoder,
    engine: Engine = "auto",
    precision: EnginePrecision | None = None,
    layers: Sequence[int] | None = None,
    *,
    streams: int = 1,
) -> Choice:
    """Let an engine run the encoder's transformer from now on; the weights must not change afterwards.

    The engine runs where no gradients are needed; torch runs the transformer in train mode and where it records a
    graph. What is attached is ``encoder.runtime``.

    Args:
        encoder: in eval mode, as `load_model` returns it.
        engine: "auto" selects the fastest for this model on this machine. It is measured the first time and then kept
            in the cache folder (`timing.cache_path`). On a GPU it is torch.
        precision: of the matrix products; None for the encoder's own. int8 needs OpenVINO.
        layers: the layers that will be needed, counted from 1, for which the engine is compiled now; None for the
            last. Other layers are compiled when they are needed.
        streams: batches that `extract` may run at the same time, each on its share of torch's threads: more clips per
            second (`streams.streams_on` says how many suit a device), while a single clip takes longer.

    Returns:
        What was selected and why; ``str()`` of it is one line.

    Raises:
        ValueError: an unknown engine, precision or layer, a precision that the engine lacks, or a missing package
            (named). What was attached before stays.
    """
    precision = precision or encoder.precision
    check_names(engine, precision)
    if encoder.training:
        raise ValueError("an engine runs a frozen encoder: call eval() first")
    keep = encoder.kept_layers(layers or [encoder.num_layers])
    if engine == "auto":
        _usable_engines(encoder, precision)
    else:
        check_usable(engine, encoder.device)
    encoder.use_runtime(Runtime(torch_precision(precision), streams=streams))
    transformer, why = None, "as asked"
    with shared_threads(streams):
        if engine == "auto":
            engine, why = _fastest(encoder, precision)
        if engine != "torch":
            transformer = _started(encoder, engine, precision, keep)
    if transformer is not None:
        fallback = FallbackTransformer(engine, transformer, encoder.network)
        encoder.use_runtime(replace(encoder.runtime, transformer=fallback))
    elif engine != "torch":
        engine, precision, why = "torch", encoder.precision, f"{engine} failed to start"
    choice = Choice(engine, precision, why)
    log.info("%s", choice)
    return choice


def check_usable(engine: str, device: torch.device) -> None:
    """ValueError where the engine's package is missing or the model is not on a CPU."""
    if engine != "torch" and device.type != "cpu":
        raise ValueError(f"engine {engine} runs on the CPU, and the model is on {device}: take torch, or device cpu")
    missing = [package for package in NEEDS[engine] if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"engine {engine} needs the package {missing[0]}: {install_extra(engine)}",
        )


def torch_precision(precision: str) -> Precision:
    """The precision of torch where it replaces an engine of ``precision``: the same, but fp32 for int8."""
    return "bf16" if precision == "bf16" else "fp16" if precision == "fp16" else "fp32"


class FallbackTransformer:
    """Runs an engine; on its first failure logs a warning and uses torch from then on.

    Clips with more tokens than the engine's table of positions has always go through torch, which computes theirs.
    """

    def __init__(self, engine: str, transformer: Transformer, network: MaeAst) -> None:
        self._engine = engine
        self._transformer = transformer
        self._network = network
        self._failed = False

    def __call__(self, patches: Tensor, padding: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """(B, N, P) patches, (B, N) padding or None -> (B, N, D) for each of the layers."""
        if not self._failed and patches.shape[1] <= STORED_POSITIONS:
            try:
                return self._transformer(patches, padding, layers)
            except Exception as error:  # engines raise types of their own, and torch can do all that they do
                self._failed = True
                _warn(self._engine, error)
        return self._network.features(patches, padding, layers)


def _fastest(encoder: Encoder, precision: EnginePrecision) -> tuple[Engine, str]:
    """The fastest installed engine with this precision, and why; torch unless another is clearly faster."""
    usable = _usable_engines(encoder, precision)
    if len(usable) == 1:
        reason = "nothing else here offers it" if encoder.device.type == "cpu" else f"the model is on {encoder.device}"
        return cast(Engine, usable[0]), reason
    key = timing.key_of(encoder.config.model, precision, encoder.runtime.streams)
    seconds = timing.remembered(key)
    if seconds is None or not set(usable) >= set(seconds) >= {"torch"}:
        seconds = _measured(encoder, precision, usable)
        timing.remember(key, seconds)
    fastest = min(seconds, key=lambda name: seconds[name])
    if fastest == "torch" or seconds["torch"] < MIN_SPEEDUP * seconds[fastest]:
        return "torch", f"nothing here is clearly faster ({_speedups(seconds)})"
    return cast(Engine, fastest), f"the fastest here ({_speedups(seconds)})"


def _usable_engines(encoder: Encoder, precision: EnginePrecision) -> list[str]:
    """The engines that offer this precision and can run here; ValueError if there are none."""
    offering = [name for name in OFFERS if precision in OFFERS[name]]
    usable = [name for name in offering if _is_usable(name, encoder.device)]
    if not usable:
        check_usable(offering[0], encoder.device)
    return usable


def _measured(encoder: Encoder, precision: EnginePrecision, engines: list[str]) -> dict[str, float]:
    """Seconds that each engine that works needs for a batch, in every stream at the same time."""
    config, streams = encoder.config.model, encoder.runtime.streams
    tokens = round(MEASURED_SECONDS * 1000 / FRAME_MS) // config.patch_frames * config.mel_patches
    patches, _ = noise_batch(config, max(1, BATCH_TOKENS["cpu"] // tokens), tokens)
    last = [encoder.num_layers]

    @torch.no_grad()
    def run(transformer: Transformer) -> None:
        with encoder.autocast():
            transformer(patches, None, last)

    def in_every_stream(transformer: Transformer) -> Callable[[], object]:
        return lambda: [wait() for wait in [submit(run, transformer) for _ in range(streams)]]

    with stream_pool(streams) as submit:
        works = {"torch": in_every_stream(encoder.network.features)}
        for engine in engines:
            transformer = None if engine == "torch" else _started(encoder, engine, precision, last)
            if transformer is None:
                continue
            try:
                in_every_stream(transformer)()
            except Exception as error:  # whatever an engine raises, such as memory that a whole batch lacks
                _warn(engine, error)
            else:
                works[engine] = in_every_stream(transformer)
        return timing.measure(works)


def _started(encoder: Encoder, engine: str, precision: EnginePrecision, keep: list[int]) -> Transformer | None:
    """The engine, compiled and checked on a small batch; None, with a warning, where that fails."""
    try:
        transformer: Transformer
        if engine == "openvino":
            module = importlib.import_module("maeast_upstream.engines.openvino")
            transformer = module.OpenVinoTransformer(encoder, precision, encoder.runtime.streams)
        else:
            module = importlib.import_module("maeast_upstream.engines.onnx")
            transformer = module.OnnxTransformer(encoder.network)
        _check(encoder, transformer, precision, keep)
    except Exception as error:  # whatever an engine raises: torch can do all that it does
        _warn(engine, error)
        return None
    return transformer


def _check(encoder: Encoder, transformer: Transformer, precision: str, keep: list[int]) -> None:
    """EngineError where the engine's outputs on a padded batch of a second differ from torch's."""
    with torch.no_grad():
        patches, padding = trial_batch(encoder)
        expected = encoder.network.features(patches, padding, keep)
    for reference, output in zip(expected, transformer(patches, padding, keep), strict=True):
        reference, output = reference[~padding], output[~padding]
        difference = (reference - output).abs().max()
        if precision == "fp32" and not difference <= MAX_DIFFERENCE:
            raise EngineError(f"its numbers differ from torch's by {difference:.2g}")
        cosine = F.cosine_similarity(reference, output, dim=-1).min()
        if not cosine >= MIN_COSINE[precision]:  # also where it is not a number
            raise EngineError(f"its vectors' cosine with torch's is {cosine:.3f}")


def _is_usable(engine: str, device: torch.device) -> bool:
    try:
        check_usable(engine, device)
    except ValueError:
        return False
    return True


def _warn(engine: str, error: Exception) -> None:
    reason = shortened(error) or type(error).__name__
    log.warning("engine %s failed, torch replaces it: %s", engine, reason)


def _speedups(seconds: dict[str, float]) -> str:
    """How many times as fast as torch each engine is."""
    others = [f"{name} {seconds['torch'] / value:.2f}x" for name, value in seconds.items() if name != "torch"]
    return f"torch's time over theirs: {', '.join(others) or 'none works'}"

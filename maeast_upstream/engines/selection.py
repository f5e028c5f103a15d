"""Selects what runs the transformer: torch (the reference), OpenVINO or ONNX Runtime, by name or by measurement.

``attach(encoder)`` changes only the engine: front end, batches, windows and grids stay the encoder's. Where an engine
fails, at its start or in a later call, torch replaces it and repeats the failed call; one warning reports it.
"""

import importlib
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.graph import trial_batch
from maeast_upstream.engines.memory import Memory
from maeast_upstream.engines.names import NEEDS, OFFERS, Choice, Engine, EnginePrecision, check_names
from maeast_upstream.engines.policy import ENDLESS_SECONDS, EXACTNESS, Option
from maeast_upstream.engines.streams import shared_threads
from maeast_upstream.engines.trial import Trial, make_plan, torch_precision, warn
from maeast_upstream.inference import Runtime, Transformer
from maeast_upstream.messages import install_extra
from maeast_upstream.model import MaeAst
from maeast_upstream.modules.positions import STORED_POSITIONS

MAX_DIFFERENCE = 1e-3
"""Maximum difference between an engine's float32 outputs and torch's, whose standard deviation is near 1."""
MIN_COSINE = {"fp32": 0.99, "bf16": 0.99, "int8": 0.999}
"""Minimum cosine between an engine's outputs in each precision and torch's in float32."""

log = logging.getLogger(__name__)


class EngineError(RuntimeError):
    """An engine's numbers differ from torch's."""


def attach(
    encoder: Encoder,
    engine: Engine = "auto",
    precision: EnginePrecision | Literal["auto"] | None = None,
    layers: Sequence[int] | None = None,
    *,
    streams: int = 1,
    audio_seconds: float | None = None,
) -> Choice:
    """Let an engine run the encoder's transformer from now on; the weights must not change afterwards.

    The engine runs where no gradients are needed; torch runs the transformer in train mode and where it records a
    graph. What is attached is ``encoder.runtime``.

    Args:
        encoder: in eval mode, as `load_model` returns it.
        engine: "auto" selects the one with which ``audio_seconds`` of audio are embedded first on this machine, its
            start included. What is measured for that is kept in the cache folder (`timing.cache_path`). On a GPU it is
            torch.
        precision: of the matrix products; None for the encoder's own. int8 needs OpenVINO. "auto" selects, by the
            same rule, among those whose time steps of ``layers`` have a cosine with float32 of at least 0.999, on a
            sound of some seconds that is the same everywhere.
        layers: the layers that will be needed, counted from 1, for which the engine is compiled now; None for the
            last. Other layers are compiled when they are needed.
        streams: batches that `extract` may run at the same time, each on its share of torch's threads: more clips per
            second (`streams.streams_on` says how many suit a device), while a single clip takes longer.
        audio_seconds: about how much audio will be embedded; None for so much that any start pays. Little of it is
            embedded by torch, and nothing is imported or measured for it.

    Returns:
        What was selected and why; ``str()`` of it is one line.

    Raises:
        ValueError: an unknown engine, precision or layer, a precision that the engine lacks, a missing package
            (named), or ``audio_seconds`` below 0. What was attached before stays.
    """
    precision = precision or encoder.precision
    check_names(engine, precision)
    if audio_seconds is not None and not audio_seconds >= 0:
        raise ValueError(f"audio_seconds must be at least 0, got {audio_seconds}")
    if encoder.training:
        raise ValueError("an engine runs a frozen encoder: call eval() first")
    keep = encoder.kept_layers(layers or [encoder.num_layers])
    options = usable_options(engine, precision, encoder.device)
    before = encoder.runtime
    encoder.use_runtime(Runtime(torch_precision(options[0][1]), streams=streams))
    try:
        with shared_threads(streams):
            if "auto" in (engine, precision) and len(options) > 1:
                seconds = ENDLESS_SECONDS if audio_seconds is None else min(audio_seconds, ENDLESS_SECONDS)
                chosen, transformer = _selected(encoder, options, keep, seconds, judged=precision == "auto")
            else:
                chosen, transformer = _only(encoder, options[0], keep, "auto" in (engine, precision))
    except BaseException:
        encoder.use_runtime(before)
        raise
    fallback = transformer and FallbackTransformer(chosen.engine, transformer, encoder.network)
    encoder.use_runtime(Runtime(torch_precision(chosen.precision), fallback, streams))
    log.info("%s", chosen)
    return chosen


def usable_options(engine: str, precision: str, device: torch.device) -> list[Option]:
    """The engines and precisions that can run here, of those that "auto" leaves open: the most exact and torch first.

    Raises:
        ValueError: there are none; it names the missing package, or the device.
    """
    offered = [
        (name, offer)
        for name in OFFERS
        for offer in OFFERS[name]
        if engine in ("auto", name) and precision in ("auto", offer)
    ]
    usable = [option for option in offered if _is_usable(option[0], device)]
    if not usable:
        check_usable(offered[0][0], device)
    return sorted(usable, key=lambda option: EXACTNESS.index(option[1]))


def _only(encoder: Encoder, option: Option, keep: list[int], auto: bool) -> tuple[Choice, Transformer | None]:
    """The one option that there is; torch where it fails to start."""
    engine, precision = cast(tuple[Engine, EnginePrecision], option)
    transformer = None if engine == "torch" else _started(encoder, engine, precision, keep)
    if engine != "torch" and transformer is None:
        return Choice("torch", encoder.precision, f"{engine} failed to start"), None
    alone = "nothing else here offers it" if encoder.device.type == "cpu" else f"the model is on {encoder.device}"
    return Choice(engine, precision, alone if auto else "as asked"), transformer


def _selected(
    encoder: Encoder, options: list[Option], keep: list[int], audio_seconds: float, judged: bool
) -> tuple[Choice, Transformer | None]:
    """The option that suits the job, started; torch where none starts."""
    memory = Memory(encoder, keep)
    plan = make_plan(encoder, options, memory, audio_seconds, judged)
    trial = Trial(encoder, keep, plan, memory, _started, judged)
    option = trial.run()
    if option is None:
        return Choice("torch", encoder.precision, "no other engine starts here"), None
    engine, precision = cast(tuple[Engine, EnginePrecision], option)
    why = "; ".join([plan.reason(option), *trial.remarks(option)])
    return Choice(engine, precision, why), trial.transformers[option]


def check_usable(engine: str, device: torch.device) -> None:
    """ValueError where the engine's package is missing or the model is not on a CPU."""
    if engine != "torch" and device.type != "cpu":
        raise ValueError(f"engine {engine} runs on the CPU, and the model is on {device}: take torch, or device cpu")
    missing = [package for package in NEEDS[engine] if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"engine {engine} needs the package {missing[0]}: {install_extra(engine)}",
        )


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
                warn(self._engine, error)
        return self._network.features(patches, padding, layers)


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
        warn(engine, error)
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

"""The transformer in OpenVINO, on a CPU: float32, bfloat16 where the processor has it, or int8 products."""

import queue
import threading
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maeast_upstream.engines.graph import LayersOf, noise_batch, tracing
from maeast_upstream.engines.int8 import group_size, int8_weights, quantize
from maeast_upstream.engines.timing import processor
from maeast_upstream.inference import BatchEncoder
from maeast_upstream.model import MaeAst

OpenVinoPrecision = Literal["fp32", "bf16", "int8"]


class OpenVinoTransformer:
    """A `Transformer`: converted once, compiled for each set of layers and number of threads when first needed."""

    def __init__(self, encoder: BatchEncoder, precision: OpenVinoPrecision, streams: int = 1) -> None:
        config = encoder.config.model
        self._streams = streams
        self._lock = threading.Lock()
        self._dim = config.embed_dim
        self._settings = precision_settings(precision, group_size(config))
        self._model = convert(encoder.network)
        if precision == "int8":
            quantize(self._model, encoder.network, int8_weights(encoder))
        self._requests: dict[tuple[object, ...], queue.SimpleQueue[Any]] = {}

    def __call__(self, patches: Tensor, padding: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """(B, N, P) patches, (B, N) padding or None -> (B, N, D) for each of the layers, in torch's memory."""
        import openvino as ov

        if padding is None:  # a mask costs nothing, while a second compiled model would cost memory
            padding = torch.zeros(patches.shape[:2], dtype=torch.bool)
        requests = self._compile(tuple(layers))
        request = requests.get()
        try:
            for index, value in enumerate((patches, padding)):
                request.set_input_tensor(index, ov.Tensor(value.contiguous().numpy(), shared_memory=True))
            outputs = [torch.empty(*patches.shape[:2], self._dim) for _ in layers]
            for index, output in enumerate(outputs):
                request.set_output_tensor(index, ov.Tensor(output.numpy(), shared_memory=True))
            request.infer()
        finally:
            requests.put(request)
        return outputs

    def _compile(self, layers: tuple[int, ...]) -> "queue.SimpleQueue[Any]":
        """Requests, one for each stream. They are reused, because creating one waits for those that are running."""
        import openvino as ov

        threads = torch.get_num_threads()
        with self._lock:
            if (layers, threads) not in self._requests:
                results = self._model.get_results()
                part = ov.Model(
                    [results[layer - 1] for layer in layers],
                    self._model.get_parameters(),
                )
                options = self._settings | stream_settings(threads, self._streams)
                compiled = ov.Core().compile_model(part, "CPU", options)
                requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for _ in range(self._streams):
                    requests.put(compiled.create_infer_request())
                self._requests[layers, threads] = requests
            return self._requests[layers, threads]


def precision_settings(precision: OpenVinoPrecision, group: int) -> dict[str, str]:
    """OpenVINO's settings for a precision; its own default may be bf16.

    Args:
        precision: of the matrix products. With int8, what is not in int8 is in bf16 where that is fast.
        group: for int8: how many values of a token share a scale.
    """
    if precision != "int8":
        return {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
    hint = "bf16" if has_fast_bf16() else "f32"
    return {"INFERENCE_PRECISION_HINT": hint, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group)}


def has_fast_bf16() -> bool:
    """Whether the processor has instructions for products in bf16. OpenVINO also lists those that imitate them."""
    return any(name in processor() for name in ("avx512_bf16", "amx_bf16"))


def stream_settings(threads: int, streams: int = 1) -> dict[str, str]:
    """OpenVINO's settings for ``streams`` batches at a time, each on ``threads``."""
    return {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": str(threads * streams),
    }


def convert(network: MaeAst) -> Any:
    """An ``ov.Model`` with all layers as outputs, for any batch and length; it shares torch's weights.

    It calls the front end itself: ``openvino.convert_model`` does the same, but reports its use over the network.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    layers = LayersOf(network, range(1, network.config.depth + 1))
    example = noise_batch(network.config, clips=2, tokens=3 * network.config.mel_patches)
    with tracing():
        decoder = TorchScriptPythonDecoder(layers, example_input=example, shared_memory=True)
    front_end = FrontEndManager().load_by_framework("pytorch")
    return front_end.convert(front_end.load(decoder))

"""The transformer in OpenVINO, on a CPU: float32, or bfloat16 where the processor has it."""

import queue
import threading
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from maeast_upstream.engines.graph import LayersOf, noise_batch, tracing
from maeast_upstream.model import MaeAst

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoTransformer:
    """A `Transformer`: converted once, compiled for each set of layers and number of threads when first needed."""

    def __init__(self, network: MaeAst, precision: Literal["fp32", "bf16"], streams: int = 1) -> None:
        self._precision = precision
        self._streams = streams
        self._lock = threading.Lock()
        self._dim = network.config.embed_dim
        self._model = convert(network)
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
                options = settings(self._precision, threads, self._streams)
                compiled = ov.Core().compile_model(part, "CPU", options)
                requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
                for _ in range(self._streams):
                    requests.put(compiled.create_infer_request())
                self._requests[layers, threads] = requests
            return self._requests[layers, threads]


def settings(precision: Literal["fp32", "bf16"], threads: int, streams: int = 1) -> dict[str, str]:
    """OpenVINO's settings: ``streams`` batches at a time, each on ``threads``. Its default precision may be bf16."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
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

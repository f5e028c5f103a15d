"""The transformer in ONNX Runtime, on a CPU, in float32.

Its int8 products would round the inputs of a whole batch by one scale: a clip's numbers would depend on the others.
"""

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maeast_upstream.engines.graph import LayersOf, noise_batch, tracing
from maeast_upstream.model import MaeAst


class OnnxTransformer:
    """A `Transformer`: exported for each set of layers when it is first needed."""

    def __init__(self, network: MaeAst) -> None:
        self._network = network
        self._sessions: dict[tuple[object, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, patches: Tensor, padding: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """(B, N, P) patches, (B, N) padding or None -> (B, N, D) for each of the layers."""
        if padding is None:
            padding = torch.zeros(patches.shape[:2], dtype=torch.bool)
        inputs = {"patches": patches.contiguous().numpy(), "padding": padding.numpy()}
        return [torch.from_numpy(output) for output in self._session(tuple(layers)).run(None, inputs)]

    def _session(self, layers: tuple[int, ...]) -> Any:
        key = (layers, torch.get_num_threads())
        with self._lock:
            if key not in self._sessions:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "layers.onnx"
                    write_graph(self._network, layers, path)
                    self._sessions[key] = session(path)
            return self._sessions[key]


def session(path: Path) -> Any:
    """An ``onnxruntime.InferenceSession`` on torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def write_graph(network: MaeAst, layers: Sequence[int], path: Path) -> None:
    """Write the ONNX model of these layers, for any batch and length.

    It uses torch's older exporter: the newer one takes three times as long and needs another package.
    """
    axes = {name: {0: "clips", 1: "tokens"} for name in ("patches", "padding")}
    example = noise_batch(network.config, clips=2, tokens=3 * network.config.mel_patches)
    with tracing():
        torch.onnx.export(
            LayersOf(network, layers),
            example,
            path,
            dynamo=False,
            input_names=list(axes),
            dynamic_axes=axes,
        )

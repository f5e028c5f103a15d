"""The transformer body in ONNX Runtime, on a CPU: float32, or int8 products (inputs are quantised as they come)."""

import contextlib
import ctypes
import gc
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from maeast_upstream.engines.graph import LayersOf, noise_batch, tracing
from maeast_upstream.model import MaeAst


class OnnxBody:
    """A `Body`: exported for each set of layers when first asked for."""

    def __init__(self, network: MaeAst, precision: Literal["fp32", "int8"]) -> None:
        self._network = network
        self._precision = precision
        self._sessions: dict[tuple[object, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, patches: Tensor, padding: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """(B, N, P), (B, N) or None -> the layers' (B, N, D)."""
        if padding is None:
            padding = torch.zeros(patches.shape[:2], dtype=torch.bool)
        given = {"patches": patches.contiguous().numpy(), "padding": padding.numpy()}
        return [torch.from_numpy(output) for output in self._session(tuple(layers)).run(None, given)]

    def _session(self, layers: tuple[int, ...]) -> Any:
        key = (layers, torch.get_num_threads())
        with self._lock:
            if key not in self._sessions:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "layers.onnx"
                    write_graph(self._network, layers, path)
                    if self._precision == "int8":
                        quantise(path)
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
    """The ONNX model of these layers, any batch and length.

    By torch's older exporter: the newer one takes three times as long and needs one package more, for the same graph.
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


def quantise(path: Path) -> None:
    """Turn the weights of a model's matrix products into int8, one scale for each output channel."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # else it asks, by the root logger, for a pass over the graph that only static quantisation needs; appended, because
    # a file of two messages is the two merged, and a model handed over in memory is copied twice (0.4 GB, base)
    told = onnx.ModelProto()
    onnx.helper.set_model_props(told, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with path.open("ab") as file:
        file.write(told.SerializeToString())
    quantize_dynamic(
        path,
        path,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
    )
    give_back_memory()


def give_back_memory() -> None:
    """What is free goes back to the system: the quantiser's copies, 0.7 GB of the base model, would stay."""
    gc.collect()  # they hold each other
    with contextlib.suppress(OSError, AttributeError):  # a C library of another make
        ctypes.CDLL("libc.so.6").malloc_trim(0)

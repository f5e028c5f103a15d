"""Export of an encoder to one model file for ONNX Runtime or OpenVINO, which runs without this package.

The file holds the front end, the network and the readout. Its input is ``waveforms`` (B, S) float32 at 16 kHz, for any
B and S; the clips of a batch have the same length. Its outputs are ``embeddings`` (B, E), or for frames ``embeddings``
(B, T, C) and ``times_ms`` (T,). A clip shorter than one token is zero-padded to one, as in `Encoder.encode`.
"""

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maeast_upstream.display import as_text
from maeast_upstream.encoder import Encoder
from maeast_upstream.engines.int8 import group_size, int8_weights, quantize
from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, num_samples
from maeast_upstream.messages import install_extra
from maeast_upstream.modules.positions import STORED_POSITIONS
from maeast_upstream.readout import Readout, combine_layers, fold_mel, pool_time
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.time_grid import FRAME_MS
from maeast_upstream.version import __version__

ExportFormat = Literal["onnx", "openvino"]


ExportPrecision = Literal["fp32", "int8"]


Kind = Literal["scene", "frames"]


Run = Callable[[Tensor], Sequence[Any]]
"""(B, S) -> the numpy outputs of a written file."""


NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
"""Packages that write and check each format."""


EXTRAS = {"onnx": "onnx", "openvino": "onnx,openvino"}


CHECKED_SAMPLES = (400, 16_000, 53_910)
"""Lengths in samples on which a file is compared with torch, in this order: a short clip must not affect later ones."""


_largest: Callable[[Any, Any], Any] = torch.sym_max
"""The larger of two numbers that an export need not know; torch 2.14 types it too widely, older ones not at all."""


MAX_DIFFERENCE = 1e-3
"""Maximum difference from torch; outputs have a standard deviation near 1. The front end's DFT, which is a matrix
product in the file, has another rounding."""


MIN_COSINE = 0.999
"""Minimum cosine of a vector of an int8 file with torch's in float32."""


SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
"""How an OpenVINO file is to be compiled: OpenVINO's default may be bf16, which is too coarse for the front end."""


def export(
    encoder: Encoder,
    out: Path,
    form: ExportFormat = "onnx",
    kind: Kind = "scene",
    readout: Readout | None = None,
    precision: ExportPrecision = "fp32",
    on_step: Callable[[str], object] = str,
) -> float:
    """Write a model file and compare it with torch.

    Args:
        encoder: in eval mode on the CPU.
        out: the file, which is written completely or not at all. OpenVINO's weights go to a .bin of the same name.
        form: "onnx" or "openvino".
        kind: "scene" or "frames".
        readout: which layers, mel axis, pooling and hop; None for the checkpoint's own.
        precision: of the transformer's matrix products: "fp32", or for OpenVINO "int8".
        on_step: called with what is done next, in words.

    Returns:
        The maximum difference between the file's outputs and torch's, on clips of three lengths; with int8 the least
        cosine of their vectors.

    Raises:
        ValueError: a package or the folder is missing, the model lacks the readout's layer or hop, the format lacks
            the precision, or the file's outputs differ from torch's.
    """
    if precision == "int8" and form != "openvino":
        raise ValueError(f"format {form} holds fp32 only; for int8 take openvino: -o {out.with_suffix('.xml').name}")
    _check_packages(form)
    try:
        os.fsencode(out.resolve()).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{as_text(str(out))}: {form} opens names in UTF-8 only; give another -o") from error
    model = WaveformModel(encoder, kind, readout or encoder.config.readout)
    with replacing(out) as part, tempfile.TemporaryDirectory(dir=out.parent) as folder:
        graph = Path(folder) / "model.onnx"
        on_step("tracing the model, which takes a minute or two")
        write_onnx(model, graph)
        if form == "onnx":
            os.replace(graph, part)
            on_step("comparing the file with torch")
            return _checked(model, run_onnx(part))
        with replacing(out.with_suffix(".bin")) as weights:
            on_step("converting it to OpenVINO")
            write_openvino(graph, Path(folder) / "model.xml", model, precision)
            on_step("comparing the file with torch")
            agreement = _checked(model, run_openvino(Path(folder) / "model.xml"), precision)
            os.replace(Path(folder) / "model.bin", weights)
            os.replace(Path(folder) / "model.xml", part)
        return agreement


class WaveformModel(nn.Module):
    """A module from waveforms of one length to embeddings, which can be exported for any batch size and length."""

    def __init__(self, encoder: Encoder, kind: Kind, readout: Readout) -> None:
        super().__init__()
        self.encoder = encoder
        self.kind = kind
        self.readout = readout
        encoder.check_readout(readout)
        self.grid = encoder.grid(readout.hop_ms)
        self.layers = encoder.kept_layers(readout.layers(encoder.num_layers))
        # at least two tokens, the second masked where it is padding: after OpenVINO 2026.4 has run one token through a
        # graph without a mask, all later results are wrong
        self.shortest = num_samples(max(1, 2 // encoder.config.model.mel_patches) * encoder.config.model.patch_frames)

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs of `forward`."""
        return ["embeddings"] if self.kind == "scene" else ["embeddings", "times_ms"]

    def forward(self, waveforms: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, S) -> (B, E); for frames (B, T, C) and the (T,) centres of the time steps. All are float32."""
        steps = combine_layers(self._steps(waveforms), self.readout.layer)
        if self.kind == "frames":
            return steps, self._times_ms(waveforms.shape[1], steps.shape[1])
        lengths = torch.ones_like(steps[:, 0, 0], dtype=torch.int64) * steps.shape[1]
        return self.encoder.project(pool_time(steps, lengths, self.readout.pool), self.readout)

    def metadata(self) -> dict[str, str]:
        """The metadata of a file."""
        return {
            "maeast_version": __version__,
            "config": json.dumps(self.encoder.config.to_dict()),
            "kind": self.kind,
            "readout": json.dumps(self.readout.to_dict()),
            "sample_rate": str(SAMPLE_RATE),
            "hop_ms": f"{self.grid.hop * FRAME_MS:g}",
            "longest_seconds": f"{longest(self.encoder):g}",
        }

    def _steps(self, waveforms: Tensor) -> list[Tensor]:
        """(B, S) -> (B, T, C) for each kept layer; the shifted grids of a finer hop share a batch."""
        model, grid, fbank = self.encoder.config.model, self.grid, self.encoder.fbank
        samples = _largest(grid.left + waveforms.shape[1], num_samples(model.patch_frames))
        steps = ((samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1 - model.patch_frames) // grid.hop + 1
        lacking = _largest(self.shortest - grid.left - waveforms.shape[1], 0)
        spectrogram = fbank.log_mel(fbank.prepare(F.pad(waveforms, (grid.left, lacking))))
        if self.shortest == num_samples(model.patch_frames) and grid.passes == 1:
            patches, padding = self.encoder.patchify(spectrogram), None
        else:
            patches, padding = self._grids(spectrogram, steps)
        hidden = self.encoder.network.features(patches, padding, self.layers)
        states = [fold_mel(tokens, model.mel_patches, self.readout.mel) for tokens in hidden]
        return [interleave(state, grid.passes)[:, :steps] for state in states]

    def _grids(self, spectrogram: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(B, frames, mels) -> (B * passes, N, P) patches of the shifted grids, and their (B * passes, N) padding.

        They are cut from windows of all time steps, because an export cannot slice from a frame past the end.
        """
        windows = spectrogram.unfold(1, self.grid.patch_frames, self.grid.hop)  # (B, steps, mels, frames of a token)
        cut, passes = windows.shape[1], self.grid.passes
        each = (cut + passes - 1) // passes
        windows = F.pad(windows, (0, 0, 0, 0, 0, each * passes - cut))
        grids = windows.reshape(-1, each, passes, *windows.shape[2:])
        grids = grids.permute(0, 2, 1, 4, 3).flatten(2, 3)  # (B, passes, frames, mels)
        patches = self.encoder.patchify(grids.flatten(0, 1))
        step = torch.arange(patches.shape[1]) // self.encoder.config.model.mel_patches
        shift = torch.arange(passes)[:, None]
        # a grid without a step still needs one key to attend to; its result is cut off
        padding = (step * passes + shift >= steps) & (step > 0)  # (passes, N)
        return patches, padding.expand(spectrogram.shape[0], -1, -1).flatten(0, 1)

    def _times_ms(self, samples: int, steps: int) -> Tensor:
        """(steps,) float32, see `TimeGrid.times_ms`: a clip of one padded step is centred no later than its middle."""
        first = (num_samples(self.grid.patch_frames) / 2 - self.grid.left) * 1000 / SAMPLE_RATE
        middle = torch.ones(1) * samples * (1000 / SAMPLE_RATE / 2)
        return middle.clamp(max=first) + torch.arange(steps) * (self.grid.hop * FRAME_MS)


def interleave(state: Tensor, passes: int) -> Tensor:
    """(B * passes, T, C) of shifted grids -> (B, T * passes, C), their steps interleaved."""
    return state.reshape(-1, passes, *state.shape[1:]).transpose(1, 2).flatten(1, 2)


def longest(encoder: Encoder) -> float:
    """The length in seconds of the longest clip whose tokens have stored positions."""
    model = encoder.config.model
    return STORED_POSITIONS // model.mel_patches * model.patch_frames * FRAME_MS / 1000


def write_onnx(model: WaveformModel, path: Path) -> None:
    """Export to one ONNX file with its metadata."""
    import onnx

    shapes = {"waveforms": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.AUTO}}
    example = 0.1 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():
        torch.onnx.export(
            model.eval(),
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["waveforms"],
            output_names=model.outputs,
            external_data=False,
            verbose=False,
        )
    written = onnx.load_model(path)
    onnx.helper.set_model_props(written, model.metadata())
    onnx.save_model(written, path)


def write_openvino(graph: Path, path: Path, model: WaveformModel, precision: ExportPrecision = "fp32") -> None:
    """Convert an ONNX file to OpenVINO's pair of files, with metadata under ``maeast``.

    Of an int8 file, OpenVINO finds under ``runtime_options`` how many values of a token share a scale.
    """
    import openvino as ov

    converted = ov.Core().read_model(graph)
    facts = model.metadata() | {"precision": precision, "compile_with": json.dumps(SETTINGS)}
    for key, value in facts.items():
        converted.set_rt_info(value, ["maeast", key])
    if precision == "int8":
        group = group_size(model.encoder.config.model)
        converted.set_rt_info(str(group), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
        quantize(converted, model.encoder.network, int8_weights(model.encoder, max(model.layers)))
    ov.save_model(converted, path, compress_to_fp16=False)


def run_onnx(path: Path) -> Run:
    """A function from (B, S) to the outputs of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda waveforms: session.run(None, {"waveforms": waveforms.numpy()})


def run_openvino(path: Path) -> Run:
    """A function from (B, S) to the outputs of an OpenVINO file, computed in float32."""
    import openvino as ov

    compiled = ov.Core().compile_model(path, "CPU", SETTINGS)
    return lambda waveforms: compiled([waveforms.numpy()]).to_tuple()


def _checked(model: WaveformModel, run: Run, precision: ExportPrecision = "fp32") -> float:
    """The maximum difference from torch, or the least cosine; ValueError if it is more than rounding."""
    if precision == "int8":
        cosine = min(_cosine(model, run, samples) for samples in CHECKED_SAMPLES)
        if not cosine >= MIN_COSINE:
            raise ValueError(f"the exported model is wrong: its vectors' cosine with torch's is {cosine:.4f}")
        return cosine
    difference = max(_difference(model, run, samples) for samples in CHECKED_SAMPLES)
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(f"the exported model is wrong: its outputs differ from torch's by {difference:.2g}")
    return difference


def _difference(model: WaveformModel, run: Run, samples: int) -> float:
    expected, outputs = _outputs(model, run, samples)
    return max(float((right - output).abs().max()) for right, output in zip(expected, outputs, strict=True))


def _cosine(model: WaveformModel, run: Run, samples: int) -> float:
    expected, outputs = _outputs(model, run, samples)
    return float(F.cosine_similarity(expected[0], outputs[0], dim=-1).min())


@torch.no_grad()
def _outputs(model: WaveformModel, run: Run, samples: int) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of torch and of a file for two clips of noise."""
    waveforms = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples))
    encoder, readout = model.encoder, model.readout
    if model.kind == "scene":
        expected = [encoder.embed(waveforms, readout=readout)]
    else:
        encoded = encoder.encode(waveforms, layers=model.layers, mel=readout.mel, hop_ms=readout.hop_ms)
        expected = [
            combine_layers(encoded.hidden_states, readout.layer),
            encoded.times_ms[0].float(),
        ]
    return expected, [torch.from_numpy(output) for output in run(waveforms)]


def _check_packages(form: ExportFormat) -> None:
    missing = [package for package in NEEDS[form] if find_spec(package) is None]
    if missing:
        raise ValueError(f"format {form} needs the package {missing[0]}: {install_extra(EXTRAS[form])}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context without the exporter's warnings and log messages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

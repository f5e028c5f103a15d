"""Every engine and precision against s3prl's mae_ast_local: the same clips, the same checkpoint, the last layer kept.

``python bench_engines.py memory ENGINE PRECISION CHECKPOINT`` is one run whose peak memory the parent reads;
``python bench_engines.py`` alone prints these rows without the rest of ``make bench``.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench_encoder
import torch
import torch.nn.functional as F
from bench_encoder import Clips, equal_clips, mixed_clips, peak_mib, print_peak, theirs
from reference import load_expert, write_checkpoint
from timing import in_turn, ratio, seconds

from maeast_upstream import Encoder, load_model
from maeast_upstream.engines.selection import attach
from maeast_upstream.modules.cpu.linear import by_convolution

PAIRS = (("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
"""torch's own rows are bench_encoder's."""
WANTED = {
    "8 clips of 10 s": {"fp32": "at least 2.2", "bf16": "at least 4", "int8": "at least 4"},
    "32 clips of 1 to 15 s": {"fp32": "at least 5", "bf16": "at least 9", "int8": "at least 10"},
}
LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.999, "int8": 0.999}
Rows = list[tuple[str, str, str]]
Encoders = dict[tuple[str, str], Encoder]


def prepared(checkpoint: Path, engine: str, precision: str) -> Encoder:
    """A base encoder run by this engine; the benchmark stops if it cannot be."""
    encoder = load_model(checkpoint)
    choice = attach(encoder, engine, precision)  # type: ignore[arg-type]
    assert choice.engine == engine, choice
    return encoder


def last_layer(encoder: Encoder, clips: Clips) -> torch.Tensor:
    """(B, T, C) of the layer that embeddings are made of, all clips in one call."""
    return encoder.encode(clips, layers=[encoder.num_layers]).hidden_states[0]


def run_cpu(checkpoint: Path, rounds: int = 3) -> Rows:
    """Rows (what, measured, wanted)."""
    encoders = {pair: prepared(checkpoint, *pair) for pair in PAIRS}
    expert = load_expert(checkpoint)
    peaks = {"fp32": fp32_peak(), "bf16": peak(torch.bfloat16)}
    rows = []
    for name, clips in (
        ("8 clips of 10 s", equal_clips()),
        ("32 clips of 1 to 15 s", mixed_clips()),
    ):
        times = in_turn(systems(expert, encoders, clips), rounds)
        for (engine, precision), encoder in encoders.items():
            own = times[f"{engine} {precision}"]
            what = f"{engine} {precision}, {name}"
            speed = f"{ratio(times['s3prl'], own):.2f}"
            rows.append((f"{what}: s3prl's time / ours", speed, WANTED[name][precision]))
            if precision in peaks:
                share = products(encoder, clips) / min(own) / peaks[precision]
                of = f"{peaks[precision] / 1e9:.0f} GFLOP/s, a large product"
                rows.append((f"{what}: share of {of}", f"{100 * share:.0f} %", ""))
    return rows + cosine_rows(checkpoint, encoders) + memory_rows(checkpoint)


def systems(expert: Any, encoders: Encoders, clips: Clips) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    ours = {" ".join(pair): partial(last_layer, encoder, clips) for pair, encoder in encoders.items()}
    return {"s3prl": lambda: theirs(expert, clips), **ours}


def cosine_rows(checkpoint: Path, encoders: Encoders) -> Rows:
    """How far each engine is from torch's float32, in the worst time step."""
    clips = equal_clips(2)
    expected = last_layer(load_model(checkpoint), clips)
    rows = []
    for (engine, precision), encoder in encoders.items():
        cosine = F.cosine_similarity(expected, last_layer(encoder, clips), dim=-1).min()
        what = f"{engine} {precision} against torch float32, last layer: least cosine of a time step"
        rows.append((what, f"{cosine:.6f}", f"at least {LEAST_COSINE[precision]}"))
    return rows


def memory_rows(checkpoint: Path) -> Rows:
    """Peak memory of a process that embeds the mixed clips, its engine's start included."""
    reference = peak_mib(bench_encoder.__file__, "s3prl", checkpoint)
    rows = []
    for engine, precision in PAIRS:
        share = peak_mib(__file__, engine, precision, checkpoint) / reference
        what = f"peak memory, 32 clips of 1 to 15 s, {engine} {precision}: ours / s3prl's"
        rows.append((what, f"{share:.2f}", "at most 1"))
    return rows


def products(encoder: Encoder, clips: Clips) -> float:
    """Floating point operations of the matrix products that the clips need, padding not counted."""
    config, grid = encoder.config.model, encoder.grid(None)
    dim, ffn = config.embed_dim, config.ffn_dim
    total = 0.0
    for clip in clips:
        tokens = grid.steps(len(clip)) * config.mel_patches
        layer = 2 * (4 * dim * dim + 2 * dim * ffn) + 4 * tokens * dim
        total += tokens * (config.depth * layer + 2 * config.patch_dim * dim)
    return total


def peak(dtype: torch.dtype, size: int = 2048) -> float:
    """Measured FLOP/s of a large product."""
    a = torch.randn(size, size).to(dtype)
    return 2 * size**3 / min(seconds(lambda: a @ a) for _ in range(7))


def fp32_peak(size: int = 2048) -> float:
    """The better of torch's two float32 products."""
    a = torch.randn(size, size)
    return max(
        peak(torch.float32),
        2 * size**3 / min(seconds(lambda: by_convolution(a, a, None)) for _ in range(7)),
    )


def main() -> None:
    """These rows alone, or one run for its memory."""
    torch.set_num_threads(2)
    if sys.argv[1:2] == ["memory"]:
        _, _, engine, precision, path = sys.argv
        last_layer(prepared(Path(path), engine, precision), mixed_clips())
        print_peak()
        return
    with tempfile.TemporaryDirectory() as folder:
        for row in run_cpu(write_checkpoint(Path(folder) / "base.pt")):
            print(" | ".join(row))


if __name__ == "__main__":
    main()

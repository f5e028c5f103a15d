"""The base patch encoder against s3prl's mae_ast_local on the same clips and the same checkpoint.

``python bench_encoder.py memory SYSTEM CHECKPOINT`` is one run whose peak memory the parent reads.
"""

import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from reference import load_expert
from timing import in_turn, ratio, seconds

from maeast_upstream import Encoder, load_model
from maeast_upstream.model import patchify
from maeast_upstream.modules.half import HalfWeights

BATCH = 8
Clips = list[torch.Tensor]


def equal_clips(count: int = BATCH, length: float = 10.0) -> Clips:
    """Clips of 10 s, or of another length in seconds."""
    torch.manual_seed(0)
    return [0.1 * torch.randn(round(16_000 * length)) for _ in range(count)]


def mixed_clips(count: int = 4 * BATCH, longest: float = 15.0) -> Clips:
    """Clips of 1 to 15 s, or to another length in seconds, evenly spaced, in random order."""
    torch.manual_seed(0)
    seconds = [1 + (longest - 1) * i / (count - 1) for i in range(count)]
    random.Random(0).shuffle(seconds)
    return [0.1 * torch.randn(round(16_000 * s)) for s in seconds]


def theirs(expert: Any, clips: Clips) -> None:
    """s3prl's upstream, in padded batches of 8 in the order of the files."""
    with torch.no_grad():
        for start in range(0, len(clips), BATCH):
            expert(clips[start : start + BATCH])


def ours(encoder: Encoder, clips: Clips) -> None:
    """The same calls to our encoder, all layers kept, as s3prl's does."""
    for start in range(0, len(clips), BATCH):
        encoder.encode(clips[start : start + BATCH])


def systems(checkpoint: Path, clips: Clips) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    expert = load_expert(checkpoint)
    fp32, bf16 = load_model(checkpoint), load_model(checkpoint, precision="bf16")
    return {
        "s3prl": lambda: theirs(expert, clips),
        "fp32": lambda: ours(fp32, clips),
        "bf16": lambda: ours(bf16, clips),
    }


def run_cpu(checkpoint: Path, rounds: int = 3) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    rows = []
    for name, clips, wanted in (
        ("8 clips of 10 s", equal_clips(), ("at least 1.2", "at least 3")),
        ("32 clips of 1 to 15 s", mixed_clips(), ("at least 2.5", "at least 5")),
    ):
        times = in_turn(systems(checkpoint, clips), rounds)
        for precision, goal in zip(("fp32", "bf16"), wanted, strict=True):
            speed = ratio(times["s3prl"], times[precision])
            rows.append(
                (
                    f"encoder, {name}, {precision}: s3prl's time / ours",
                    f"{speed:.2f}",
                    goal,
                )
            )
    rows.append(precision_row(checkpoint))
    rows.append(overhead_row(checkpoint, rounds))
    peaks = {name: peak_mib(__file__, name, checkpoint) for name in ("s3prl", "fp32", "bf16")}
    for precision in ("fp32", "bf16"):
        what = f"peak memory, 32 clips of 1 to 15 s, {precision}: ours / s3prl's"
        rows.append((what, f"{peaks[precision] / peaks['s3prl']:.2f}", "at most 1"))
    return rows


def precision_row(checkpoint: Path) -> tuple[str, str, str]:
    """How far bf16 is from float32."""
    clips = equal_clips(2)
    one = load_model(checkpoint).encode(clips, layers=[12]).hidden_states[0]
    other = load_model(checkpoint, precision="bf16").encode(clips, layers=[12]).hidden_states[0]
    cosine = F.cosine_similarity(one, other, dim=-1).min()
    return (
        "bf16 against float32, last layer: least cosine of a time step",
        f"{cosine:.5f}",
        "at least 0.999",
    )


def overhead_row(checkpoint: Path, rounds: int) -> tuple[str, str, str]:
    """Share of float32 time outside the network: front end, padding, normalising, patches, copies."""
    encoder = load_model(checkpoint)
    clips = equal_clips()
    patches = patchify(encoder.fbank(torch.stack(clips)), encoder.config.model)

    @torch.no_grad()
    def network() -> None:
        for clip in patches.split(2):  # as many clips at a time as encode takes on a CPU
            encoder.network.features(clip)

    times = in_turn({"encode": lambda: encoder.encode(clips), "network": network}, rounds)
    share = 1 - 1 / ratio(times["encode"], times["network"])
    return (
        "share of the float32 time outside the network",
        f"{100 * share:.1f} %",
        "at most 5 %",
    )


def peak_mib(script: str, *arguments: str | Path) -> float:
    """Peak resident memory of a process of ``script`` that runs a system once over the mixed clips."""
    command = [sys.executable, script, "memory", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(script).parent)
    return float(done.stdout.split()[-1])


def print_peak() -> None:
    """Of this process in MiB, for `peak_mib`."""
    # VmHWM, not getrusage: that also counts what the parent held when it forked
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)


def run_gpu(
    device: str, checkpoint: Path, clips: int = 64, seconds: float = 10.0, rounds: int = 10
) -> list[tuple[str, str, str]]:
    """The rate of batches of equal and of mixed lengths in bf16, and what cast weights and packing save."""
    encoder = load_model(checkpoint, device=device, precision="bf16")
    keep, layers = encoder._half_weights, [encoder.num_layers]
    equal = [clip.to(device) for clip in equal_clips(clips, seconds)]
    mixed = [clip.to(device) for clip in mixed_clips(clips, 1.5 * seconds)]
    few = equal[:8]

    def without_cast_weights() -> None:
        encoder._half_weights = HalfWeights()
        encoder._half_weights.current = lambda *of: None  # type: ignore[method-assign, assignment]
        encoder.encode(equal, layers=layers)
        encoder._half_weights = keep

    def padded() -> None:
        encoder._packs = lambda clips: False  # type: ignore[method-assign]
        encoder.encode(mixed, layers=layers)
        del encoder._packs

    times = in_turn(
        {
            "equal": lambda: encoder.encode(equal, layers=layers),
            "autocast": without_cast_weights,
            "mixed": lambda: encoder.encode(mixed, layers=layers),
            "padded": padded,
            "few": lambda: encoder.encode(few, layers=layers),
        },
        rounds,
    )
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    peak, flops = matmul_peak(device), network_flops(encoder, round(16_000 * seconds))
    what = f"encoder, bf16, {device}"
    hours = {"equal": clips * seconds, "mixed": sum(map(len, mixed)) / 16_000, "few": len(few) * seconds}
    rate = {name: f"{length / 3600 / middle[name]:.2f}" for name, length in hours.items()}
    share = 100 * flops * clips / middle["equal"] / peak
    return [
        (
            f"{what}, {clips} clips of {seconds:g} s: share of {peak / 1e12:.3g} TFLOP/s",
            f"{share:.0f} %",
            "at least 60 %",
        ),
        (f"{what}, {clips} clips of {seconds:g} s: hours of audio a second", rate["equal"], ""),
        (f"{what}, the same: autocast's time / ours", f"{ratio(times['autocast'], times['equal']):.2f}", ""),
        (f"{what}, {clips} clips of 1 to {1.5 * seconds:g} s: hours of audio a second", rate["mixed"], ""),
        (f"{what}, the same: time of padded batches / packed", f"{ratio(times['padded'], times['mixed']):.2f}", ""),
        (f"{what}, {len(few)} clips of {seconds:g} s: hours of audio a second", rate["few"], ""),
    ]


def network_flops(encoder: Encoder, samples: int) -> int:
    """Of the network's matrix products on one clip."""
    config = encoder.config.model
    tokens = encoder.grid(None).steps(samples) * config.mel_patches
    dim, ffn = config.embed_dim, config.ffn_dim
    per_token = config.depth * (2 * (4 * dim * dim + 2 * dim * ffn) + 4 * tokens * dim) + 2 * config.patch_dim * dim
    return per_token * tokens


def matmul_peak(device: str = "cuda", repeat: int = 20) -> float:
    """Measured FLOP/s of a large bf16 matrix product."""
    size = 8192 if device != "cpu" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(seconds(lambda: [a @ b for _ in range(repeat)]) for _ in range(5))
    return 2 * size**3 * repeat / best


if __name__ == "__main__":
    _, _, name, path = sys.argv
    torch.set_num_threads(2)
    if name == "s3prl":
        theirs(load_expert(Path(path)), mixed_clips())
    else:
        ours(load_model(path, precision=name), mixed_clips())  # type: ignore[arg-type]
    print_peak()

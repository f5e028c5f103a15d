"""The base patch encoder against s3prl's mae_ast_local on the same clips and the same checkpoint.

``python bench_encoder.py memory SYSTEM CHECKPOINT`` is one run whose peak memory the parent reads.
"""

import random
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

BATCH = 8
Clips = list[torch.Tensor]


def equal_clips(count: int = BATCH) -> Clips:
    """Clips of 10 s."""
    torch.manual_seed(0)
    return [0.1 * torch.randn(160_000) for _ in range(count)]


def mixed_clips(count: int = 4 * BATCH) -> Clips:
    """Clips of 1 to 15 s, evenly spaced, in random order."""
    torch.manual_seed(0)
    seconds = [1 + 14 * i / (count - 1) for i in range(count)]
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


def peak_mib(script: str, system: str, checkpoint: Path) -> float:
    """Peak resident memory of a process of ``script`` that runs ``system`` once over the mixed clips."""
    command = [sys.executable, script, "memory", system, str(checkpoint)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(script).parent)
    return float(done.stdout.split()[-1])


def print_peak() -> None:
    """Of this process in MiB, for `peak_mib`."""
    # VmHWM, not getrusage: that also counts what the parent held when it forked
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024)


def run_cuda(checkpoint: Path, rounds: int = 10) -> list[tuple[str, str, str]]:
    """Share of the device's measured bf16 matrix-product peak that batches of 64 ten-second clips reach."""
    encoder = load_model(checkpoint, device="cuda", precision="bf16")
    clips = [clip.cuda() for clip in equal_clips(64)]
    config = encoder.config.model
    tokens = 62 * config.mel_patches
    dim, ffn = config.embed_dim, config.ffn_dim
    per_token = config.depth * (2 * (4 * dim * dim + 2 * dim * ffn) + 4 * tokens * dim) + 2 * config.patch_dim * dim
    work = in_turn({"encode": lambda: encoder.encode(clips, layers=[config.depth])}, rounds)["encode"]
    reached = per_token * tokens * len(clips) / sorted(work)[len(work) // 2]
    what = f"encoder, 64 clips of 10 s, bf16, cuda: share of {matmul_peak() / 1e12:.0f} TFLOP/s"
    return [(what, f"{100 * reached / matmul_peak():.0f} %", "at least 45 %")]


def matmul_peak(size: int = 8192, repeat: int = 20) -> float:
    """Measured FLOP/s of a large bf16 matrix product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
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

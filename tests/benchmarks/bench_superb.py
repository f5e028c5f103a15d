"""The base patch model as an s3prl upstream, against s3prl's mae_ast_local on the same batches and checkpoint.

``python bench_superb.py memory SYSTEM CHECKPOINT`` is one run whose peak memory the parent reads.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from bench_encoder import Clips, equal_clips, mixed_clips, peak_mib, print_peak, theirs
from reference import load_expert
from timing import in_turn, ratio

from maeast_upstream.expert import UpstreamExpert

Rows = list[tuple[str, str, str]]
GOALS = {
    "cpu": {
        "equal": ("at least 1.2", "at least 3"),
        "mixed": ("at least 2.5", "at least 5"),
    },
    "cuda": {"equal": ("", "at least 8"), "mixed": ("", "at least 8")},
}


def upstream(name: str, checkpoint: Path, device: str = "cpu") -> torch.nn.Module:
    """s3prl's, or ours in a precision; frozen, as run_downstream has it without -f."""
    if name == "s3prl":
        expert: torch.nn.Module = load_expert(checkpoint)
    else:
        expert = UpstreamExpert(checkpoint, precision=name)
    return expert.eval().to(device)


def run(device: str, checkpoint: Path, rounds: int = 3, seconds: float = 10.0, memory: bool = True) -> Rows:
    """Rows (what, measured, wanted): forward passes in batches of 8 as a frozen upstream, and peak memory."""
    longest = 1.5 * seconds
    experts = {name: upstream(name, checkpoint, device) for name in ("s3prl", "fp32", "bf16")}
    sets = (
        (f"8 clips of {seconds:g} s", "equal", equal_clips(length=seconds)),
        (f"batches of 8 of 1 to {longest:g} s", "mixed", mixed_clips(longest=longest)),
    )
    rows: Rows = []
    for what, kind, clips in sets:
        clips = [clip.to(device) for clip in clips]
        times = in_turn({name: frozen(expert, clips) for name, expert in experts.items()}, rounds)
        for precision, goal in zip(("fp32", "bf16"), GOALS[device][kind], strict=True):
            speed = ratio(times["s3prl"], times[precision])
            rows.append(
                (
                    f"upstream, {what}, {precision}: s3prl's time / ours",
                    f"{speed:.2f}",
                    goal,
                )
            )
    clips = [clip.to(device) for clip in mixed_clips(8, longest)]
    times = in_turn({name: trained(expert, clips) for name, expert in experts.items()}, rounds)
    for precision, goal in (("fp32", "at least 1.5" if device == "cuda" else ""), ("bf16", "")):
        what = f"upstream with -f, a step on 8 clips of 1 to {longest:g} s, {precision}: s3prl's time / ours"
        rows.append((what, f"{ratio(times['s3prl'], times[precision]):.2f}", goal))
    for name, goal in (("s3prl", ""), ("fp32", "at most 1e-4")):
        what = f"a clip alone and in a batch of 1 to {longest:g} s, last layer, {name}: greatest difference"
        rows.append((what, f"{batch_difference(experts[name].eval(), clips):.1g}", goal))
    if not memory:
        return rows
    return rows + (memory_cuda(experts, clips) if device == "cuda" else memory_cpu(checkpoint))


def frozen(expert: torch.nn.Module, clips: Clips) -> Callable[[], None]:
    """Forward passes in batches of 8, in the order of the files."""
    return lambda: theirs(expert.eval(), clips)


def trained(expert: torch.nn.Module, clips: Clips) -> Callable[[], None]:
    """A forward and a backward pass over all layers, in train mode."""

    def step() -> None:
        states = expert.train()(clips)["hidden_states"]
        torch.stack([state.square().mean() for state in states]).sum().backward()
        expert.zero_grad()

    return step


@torch.no_grad()
def batch_difference(expert: torch.nn.Module, clips: Clips) -> float:
    """Between a clip's own steps alone and in the batch, relative to numbers above 1; the last layer's greatest."""
    batch = expert(clips)["hidden_states"][-1]
    greatest = 0.0
    for row, clip in enumerate(clips):
        alone = expert([clip])["hidden_states"][-1][0]
        difference = (batch[row, : len(alone)] - alone).abs() / alone.abs().clamp(min=1)
        greatest = max(greatest, float(difference.max()))
    return greatest


def memory_cpu(checkpoint: Path) -> Rows:
    """Peaks of processes that run one upstream each."""
    peaks = {name: peak_mib(__file__, name, checkpoint) for name in ("s3prl", "fp32", "bf16")}
    return memory_rows(peaks)


def memory_cuda(experts: dict[str, torch.nn.Module], clips: Clips) -> Rows:
    """Peaks of the device beyond what lay on it before."""
    peaks = {}
    for name, expert in experts.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        frozen(expert, clips)()
        peaks[name] = float(torch.cuda.max_memory_allocated() - before)
    return memory_rows(peaks)


def memory_rows(peaks: dict[str, float]) -> Rows:
    """Ours as a share of s3prl's."""
    return [
        (
            f"upstream, peak memory, clips of 1 to 15 s, {name}: ours / s3prl's",
            f"{peaks[name] / peaks['s3prl']:.2f}",
            "at most 1",
        )
        for name in ("fp32", "bf16")
    ]


if __name__ == "__main__":
    _, _, name, path = sys.argv
    torch.set_num_threads(2)
    theirs(upstream(name, Path(path)), mixed_clips())
    print_peak()

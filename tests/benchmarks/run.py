"""``make bench``: measure on this machine and write docs/results/benchmarks/PROCESSOR-GROUP.md."""

import argparse
import datetime
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import bench_decode
import bench_dedup
import bench_embed
import bench_encoder
import bench_engines
import bench_fit
import bench_frontend
import bench_hear
import bench_kit
import bench_loader
import bench_packed
import bench_predict
import bench_pretrain
import bench_pretrain_cuda
import bench_search
import bench_startup
import bench_superb
import bench_superb_epoch
import torch
from reference import write_checkpoint

Rows = list[tuple[str, str, str]]
ROOT = Path(__file__).parents[2]


def processor() -> str:
    """The CPU's name, family and model."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    first = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    if "model name" not in first:
        return platform.processor()
    numbers = [f"{key.removeprefix('cpu ')} {first[key]}" for key in ("cpu family", "model") if key in first]
    return f"{first['model name']} ({', '.join(numbers)})"


CPU: dict[str, Callable[[Path], Rows]] = {
    "frontend": lambda checkpoint: bench_frontend.run("cpu"),
    "encoder": bench_encoder.run_cpu,
    "engines": bench_engines.run_cpu,
    "embed": bench_embed.run,
    "predict": lambda checkpoint: bench_predict.run(),
    "fit": lambda checkpoint: bench_fit.run(),
    "decode": lambda checkpoint: bench_decode.run(),
    "hear": bench_hear.run,
    "kit": lambda checkpoint: bench_kit.run(),
    "superb": lambda checkpoint: bench_superb.run("cpu", checkpoint),
    "superb_epoch": bench_superb_epoch.run,
    "loader": lambda checkpoint: bench_loader.run(),
    "search": lambda checkpoint: bench_search.run(),
    "dedup": lambda checkpoint: bench_dedup.run(),
    "startup": bench_startup.run,
}
PRETRAIN: dict[str, Callable[[Path], Rows]] = {
    name: lambda checkpoint, group=group: group()  # type: ignore[misc]
    for name, group in bench_pretrain.GROUPS.items()
}
CUDA: dict[str, Callable[[Path], Rows]] = {
    "frontend": lambda checkpoint: bench_frontend.run("cuda"),
    "encoder": bench_encoder.run_cuda,
    "superb": lambda checkpoint: bench_superb.run("cuda", checkpoint),
    "packed": lambda checkpoint: bench_packed.run("cuda", checkpoint),
    "pretrain-steps": lambda checkpoint: bench_pretrain_cuda.steps(),
    "pretrain-resident": lambda checkpoint: bench_pretrain_cuda.resident(),
}


def main() -> None:
    """Measure, print, write a file for each group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "groups", nargs="*", help=f"which; default: all of {', '.join(CPU)}; also {', '.join(PRETRAIN)}"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    groups = CPU if args.device == "cpu" else CUDA
    named = {**groups, **PRETRAIN}
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{processor()}, {args.threads} threads"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "base.pt")
        for group in args.groups or groups:
            command = f"run.py --device cuda {group}" if args.device == "cuda" else f"run.py {group}"
            text = page(group, device, command, named[group](checkpoint))
            print(text, flush=True)
            path = ROOT / "docs" / "results" / "benchmarks" / f"{short_name(device)}-{group}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def short_name(device: str) -> str:
    """Name a processor for a file: maker, product and, where known, family and model, as amd-epyc-family-25-model-17.

    A maker's name for a product can cover several generations, whose ratios differ.
    """
    maker, numbers = re.match(r"([^(]*(?:\((?:R|TM)\)[^(]*)*)(?:\((.*?)\))?", device).groups()
    words = re.sub(r"\(.*?\)|[^\w ]", "", maker).lower().split()[:2]
    return "-".join(words + re.sub(r"[^\w ]", "", numbers or "").lower().split())


def page(group: str, device: str, launch: str, rows: Rows) -> str:
    """A table under a line that says where, when and of what it was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    lines = [
        f"# Benchmarks: {group}",
        "",
        f"{device}; torch {torch.__version__}; {datetime.date.today()}; commit {commit or 'unknown'}; "
        f"`tests/benchmarks/{launch}`.",
        "Ratios are medians of pairs measured in turn.",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""``make bench``: measure on this machine and write docs/results/benchmarks/PROCESSOR-GROUP.md."""

import argparse
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import bench_auto
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
import bench_long
import bench_predict
import bench_pretrain
import bench_search
import bench_startup
import bench_superb
import bench_superb_epoch
import torch
from reference import write_checkpoint
from result_page import PAGES, Rows, page, short_name


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
    "auto": lambda checkpoint: bench_auto.run(),
    "long": lambda checkpoint: bench_long.run(),
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


def main() -> None:
    """Measure, print, write a file for each group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "groups", nargs="*", help=f"which; default: all of {', '.join(CPU)}; also {', '.join(PRETRAIN)}"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    named = {**CPU, **PRETRAIN}
    device = f"{processor()}, {args.threads} threads"
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "base.pt")
        for group in args.groups or CPU:
            text = page(group, device, f"run.py {group}", named[group](checkpoint))
            print(text, flush=True)
            (PAGES / f"{short_name(device)}-{group}.md").write_text(text)


if __name__ == "__main__":
    main()

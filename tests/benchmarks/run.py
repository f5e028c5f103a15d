"""``make bench``: measures everything side by side on this machine and writes docs/benchmarks/DEVICE.md."""

import argparse
import datetime
import platform
import subprocess
import tempfile
from pathlib import Path

import bench_decode
import bench_embed
import bench_encoder
import bench_engines
import bench_frontend
import torch
from reference import write_checkpoint

ROOT = Path(__file__).parents[2]


def processor() -> str:
    """The CPU's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "base.pt")
        rows = bench_frontend.run(args.device)
        run_encoder = bench_encoder.run_cpu if args.device == "cpu" else bench_encoder.run_cuda
        rows += run_encoder(checkpoint)
        if args.device == "cpu":
            rows += bench_engines.run_cpu(checkpoint)
            rows += bench_embed.run(checkpoint)
            rows += bench_decode.run()
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{processor()}, {args.threads} threads"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    lines = [
        f"# Benchmarks on {args.device}",
        "",
        f"{device}; torch {torch.__version__}; {datetime.date.today()}; commit {commit.stdout.strip() or 'unknown'}; "
        f"written by `make {'bench' if args.device == 'cpu' else 'gpu'}`.",
        "Ratios are medians of pairs measured in turn in one process.",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    path = ROOT / "docs" / "benchmarks" / f"{args.device}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()

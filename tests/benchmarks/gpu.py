"""``make gpu``: what a GPU can show in 12 minutes, the most valuable first.

Each group is a process with a time limit of its own and writes its page as soon as it is measured, so that a group that
is slow or fails takes nothing from the others. It runs with any Python that has torch and the packages of a group, from
any folder: ``python tests/benchmarks/gpu.py``. ``--dry-run`` runs all of it on a CPU with tiny sizes, to find mistakes
before a GPU is at hand.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
MIN_SECONDS = 20
"""With less time left no group is begun: torch alone takes some seconds to start."""
MISSING = 4
"""Exit status of a group that needs a package which is not installed."""

Rows = list[tuple[str, str, str]]


@dataclass(frozen=True)
class Sizes:
    """How much a group measures."""

    device: str = "cuda"
    model: str = "base"
    clips: int = 64
    """Of the encoder's batches and of the first training step."""
    seconds: float = 10.0
    """Length of a clip."""
    rounds: int = 8
    hours: float = 24.0
    """Of packed audio."""
    large_batch: int = 256
    recipe_seconds: float = 30.0


DRY = Sizes("cpu", "tiny", 2, 1.0, 1, 0.003, 4, 0.01)


def tests(sizes: Sizes) -> Rows:
    """The tests that need a GPU; in a dry run they are only collected."""
    marked = [
        str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")
    ]
    collect = ["--collect-only"] if sizes.device == "cpu" else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--continue-on-collection-errors", *collect, *marked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    return [("tests marked gpu", done.stdout.strip().splitlines()[-1].strip("= "), "no failures")]


def encoder(sizes: Sizes) -> Rows:
    """Batches of equal and mixed lengths."""
    import bench_encoder

    with random_checkpoint(sizes.model) as checkpoint:
        return bench_encoder.run_gpu(sizes.device, checkpoint, sizes.clips, sizes.seconds, sizes.rounds)


def packed(sizes: Sizes) -> Rows:
    """From packed audio to a table."""
    import bench_packed

    with random_checkpoint(sizes.model) as checkpoint:
        return bench_packed.run(sizes.device, checkpoint, sizes.hours, 1 if sizes.device == "cpu" else 2)


def superb(sizes: Sizes) -> Rows:
    """The s3prl upstream, frozen and with -f, against s3prl's own."""
    import bench_superb
    from reference import write_checkpoint

    small = {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4}
    shape = {**small, "decoder_embed_dim": 32} if sizes.device == "cpu" else {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "model.pt", **shape)
        rounds, on_gpu = min(sizes.rounds, 3), sizes.device != "cpu"
        return bench_superb.run(sizes.device, checkpoint, rounds, sizes.seconds, memory=on_gpu)


def pretrain_step(sizes: Sizes) -> Rows:
    """The training step against the published one and SSAST."""
    import bench_pretrain_cuda

    return bench_pretrain_cuda.against_others(
        sizes.device, sizes.model, sizes.clips, min(sizes.rounds, 3), sizes.seconds
    )


def pretrain_large(sizes: Sizes) -> Rows:
    """The training step at a larger batch."""
    import bench_pretrain_cuda

    return bench_pretrain_cuda.alone(sizes.device, sizes.model, sizes.large_batch, min(sizes.rounds, 3), sizes.seconds)


def pretrain_largest(sizes: Sizes) -> Rows:
    """The training step at the largest batch."""
    import bench_pretrain_cuda

    return bench_pretrain_cuda.largest(sizes.device, sizes.model, sizes.clips, sizes.seconds)


def pretrain_compiled(sizes: Sizes) -> Rows:
    """What compiling saves of a step."""
    import bench_pretrain_cuda

    return bench_pretrain_cuda.compiled(sizes.device, sizes.model, sizes.clips, min(sizes.rounds, 3), sizes.seconds)


def recipe(sizes: Sizes, compiled: bool = False) -> Rows:
    """A recipe of the repository."""
    import bench_pretrain_cuda

    hours, seconds = min(2.0, sizes.hours), sizes.recipe_seconds
    return bench_pretrain_cuda.resident(sizes.device, hours=hours, seconds=seconds, compiled=compiled)


GROUPS: dict[str, tuple[int, Callable[[Sizes], Rows]]] = {
    "tests": (120, tests),
    "encoder": (60, encoder),
    "packed": (90, packed),
    "superb": (75, superb),
    "pretrain-step": (60, pretrain_step),
    "pretrain-large": (40, pretrain_large),
    "pretrain-largest": (50, pretrain_largest),
    "recipe": (75, recipe),
    "pretrain-compiled": (140, pretrain_compiled),
    "recipe-compiled": (600, lambda sizes: recipe(sizes, compiled=True)),
}
"""Seconds that a group may take, and what it measures, in order of value; the last one gets what is left."""


@contextlib.contextmanager
def random_checkpoint(size: str):  # type: ignore[no-untyped-def]
    """A folder with a model of random weights, which needs no package but torch."""
    from maeast_upstream import checkpoint
    from maeast_upstream.config import EncoderConfig, Normalisation, preset
    from maeast_upstream.model import MaeAst

    with tempfile.TemporaryDirectory() as folder:
        config = EncoderConfig(model=preset(size), normalisation=Normalisation(mean=-5.2, std=4.4))
        checkpoint.save_folder(Path(folder) / "model", MaeAst(config.model), config)
        yield Path(folder) / "model"


def measure(group: str, sizes: Sizes, out: Path) -> None:
    """Measure a group in this process, print its page and write it."""
    import torch
    from result_page import page, short_name

    dry = sizes.device == "cpu"
    stance = torch.compiler.set_stance("force_eager") if dry else contextlib.nullcontext()
    with stance:
        rows = GROUPS[group][1](sizes)
    device = "dry run" if dry else torch.cuda.get_device_name()
    text = page(group, device, f"gpu.py {group}", rows)
    print(text, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{short_name(device)}-{group}.md").write_text(text)


def run_group(command: list[str], seconds: float) -> str:
    """Run a group in a process that ends, with all that it started, after so many seconds; say how it ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])}
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped after its limit of {seconds:.0f} s"
    except BaseException:  # Ctrl-C is for this process alone
        os.killpg(process.pid, signal.SIGKILL)
        raise
    names = {0: "done", MISSING: "left out, a package is missing"}
    return f"{names.get(status, f'failed with status {status}')}, {time.monotonic() - begun:.0f} s"


def main() -> int:
    """Run the groups one after the other, or one group in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"default: all of {', '.join(GROUPS)}")
    parser.add_argument("--minutes", type=float, default=12.0, help="for all groups together (default 12)")
    parser.add_argument("--out", type=Path, help="folder of the pages (default docs/results/benchmarks)")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU with tiny sizes; pages go to --out or nowhere")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [group for group in args.groups if group not in GROUPS]:
        parser.error(f"unknown group {unknown[0]}: the groups are {', '.join(GROUPS)}")
    with tempfile.TemporaryDirectory() as nowhere:
        out = args.out or (Path(nowhere) if args.dry_run else ROOT / "docs" / "results" / "benchmarks")
        if args.here:
            return one_group(args.groups[0], DRY if args.dry_run else Sizes(), out)
        options = ["--out", str(out.resolve()), *(["--dry-run"] if args.dry_run else [])]
        ends = all_groups(args.groups or list(GROUPS), options, 60 * args.minutes)
    print("\n".join(f"{group}: {end}" for group, end in ends.items()), flush=True)
    return 0 if all(end.startswith("done") for end in ends.values()) else 3


def all_groups(groups: list[str], options: list[str], seconds: float) -> dict[str, str]:
    """Run groups within so many seconds; how each of them ended."""
    deadline, ends = time.monotonic() + seconds, {}
    for group in groups:
        left = deadline - time.monotonic()
        if left < MIN_SECONDS:
            ends[group] = "left out, no time"
            continue
        command = [sys.executable, str(Path(__file__).resolve()), group, "--here", *options]
        ends[group] = run_group(command, min(left, GROUPS[group][0]))
    return ends


def one_group(group: str, sizes: Sizes, out: Path) -> int:
    """Measure a group in this process; its exit status."""
    sys.path[:0] = [path for path in PATHS if path not in sys.path]
    import torch

    if sizes.device == "cuda" and not torch.cuda.is_available():
        print(f"error: {group}: torch finds no CUDA device; --dry-run needs none", file=sys.stderr)
        return 1
    try:
        measure(group, sizes, out)
    except ModuleNotFoundError as error:
        print(f"{group}: the package {error.name} is not installed", file=sys.stderr)
        return MISSING
    return 0


if __name__ == "__main__":
    sys.exit(main())

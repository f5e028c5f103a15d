"""The loader alone against what a training step consumes, packed and WebDataset apart; two processes against one."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
import yaml
from sounds import sweep, write
from timing import in_turn, seconds

from maeast_upstream.config import Normalisation
from maeast_upstream.model import preset
from pretrain.config import DataConfig, LossConfig, OptimConfig
from pretrain.data.batches import Batch, BatchSharding, CropBatches, batches
from pretrain.data.corpus import open_training
from pretrain.data.packing import pack
from pretrain.data.shards import ShardBatches
from pretrain.recipe import Recipe
from pretrain.training.build import build_objective, build_updater
from pretrain.training.distributed import Parallel

ROOT = Path(__file__).parents[2]
CLIPS, SECONDS, BATCH = 64, 10.0, 16
SIZES = ("tiny", "base")
Rows = Iterator[tuple[str, str, str]]


def run(rounds: int = 3, loads: int = 16, sizes: tuple[str, ...] = SIZES) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as folder:
        sources = make_corpus(Path(folder))
        return [*_loader_rows(sources, rounds, loads, sizes), *_process_rows(Path(folder), sources, rounds)]


def make_corpus(folder: Path) -> dict[str, Recipe]:
    """The same Opus clips packed and in shards, with a recipe for each."""
    clips = folder / "clips"
    clips.mkdir()
    for number in range(CLIPS):
        write(clips / f"{number:03d}.opus", sweep(16_000, SECONDS + number % 5), 16_000)
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for path in sorted(clips.iterdir())[shard::4]:
                tar.add(path, arcname=path.name)
    pack(clips, folder / "packed", 0)
    data = DataConfig(crop_seconds=SECONDS, batch_clips=BATCH, workers=1, shuffle_clips=32)
    packed = Recipe(
        precision="bf16", losses=LossConfig(), data=dataclasses.replace(data, corpus=str(folder / "packed"))
    )
    shards = dataclasses.replace(data, corpus=str(folder / "{0..3}.tar"), pack=False)
    return {"packed": packed, "WebDataset": dataclasses.replace(packed, data=shards)}


def _loader_rows(sources: dict[str, Recipe], rounds: int, loads: int, sizes: tuple[str, ...]) -> Rows:
    works: dict[str, Callable[[], object]] = {}
    for kind, recipe in sources.items():
        loader = iter(batches(opened(recipe), 0, (rounds + 1) * loads + 1, recipe.data.workers))
        next(loader)  # the worker's start
        works[kind] = lambda loader=loader: list(islice(loader, loads))
    batch = opened(sources["packed"])[0]
    for size in sizes:
        works[size] = step(dataclasses.replace(sources["packed"], model=preset(size)), batch)
    times = in_turn(works, rounds)
    hours = BATCH * SECONDS / 3600
    for kind in sources:
        rate = hours * loads / statistics.median(times[kind])
        yield f"loader alone, {kind}, 1 worker, {SECONDS:g} s crops", f"{rate:.3g} hours/s", ""
        for size in sizes:
            over = statistics.median(s * loads / t for s, t in zip(times[size], times[kind], strict=True))
            consumed = hours / statistics.median(times[size])
            yield f"over the {size} patch step (bf16, batch {BATCH}: {consumed:.3g} hours/s)", f"{over:.3g}x", ">= 1.5x"


def opened(recipe: Recipe) -> CropBatches | ShardBatches:
    """The corpus of a recipe."""
    return open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())


def step(recipe: Recipe, batch: Batch) -> Callable[[], object]:
    """One update."""
    torch.manual_seed(0)
    parallel = Parallel("cpu", "ddp")
    objective = build_objective(recipe, Normalisation(mean=-5.0, std=4.0))
    updater = build_updater(recipe, objective, parallel)
    return lambda: updater.update([batch], 0)


def _process_rows(folder: Path, sources: dict[str, Recipe], rounds: int) -> Rows:
    losses = []
    for number in range(rounds):
        one = speed(folder / f"one{number}", sources["packed"], 1)
        two = speed(folder / f"two{number}", sources["packed"], 2)
        losses.append(1 - two / (2 * one))
    what = "two processes on 2 cores, tiny patch model, fp32: lost of twice one process on one core"
    yield what, f"{statistics.median(losses):.1%}", "<= 15 %"


def speed(out: Path, recipe: Recipe, processes: int, steps: int = 30) -> float:
    """Crops a second of a real run, one thread a process, eight clips each, over its last half."""
    data = dataclasses.replace(recipe.data, batch_clips=8 * processes)
    optim = OptimConfig(steps=steps, warmup_steps=1, decay_steps=1)
    changed = dataclasses.replace(
        recipe, out=str(out), device="cpu", precision="fp32", model=preset("tiny"), data=data, optim=optim
    )
    changed = dataclasses.replace(changed, log_every=steps // 2, tensorboard=False)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(dataclasses.asdict(changed)))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "pretrain", "--config", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=env)
    line = (out / "metrics.jsonl").read_text().splitlines()[-1]
    return float(json.loads(line)["crops_per_second"])


if __name__ == "__main__":
    print(f"measured in {seconds(lambda: [print(*row) for row in run()]):.0f} s")

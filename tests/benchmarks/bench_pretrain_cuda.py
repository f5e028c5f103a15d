"""The training step on a GPU: against the published one and SSAST, by size, and with the corpus in its memory."""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench_pretrain
import torch
from bench_encoder import matmul_peak
from bench_packed import write_packed
from published_step import published_step
from timing import in_turn, ratio

from maeast_upstream.frontend import SAMPLE_RATE, Fbank, FrontendConfig
from maeast_upstream.model import preset
from pretrain.cli import read_recipe
from pretrain.data.batches import Batch, BatchSharding, batches
from pretrain.data.corpus import open_training
from pretrain.data.gpu import GpuBatches
from pretrain.recipe import Recipe
from pretrain.training.build import build_flops

Rows = list[tuple[str, str, str]]
CONFIGS = Path(__file__).parents[2] / "configs"
BATCHES = {"tiny": 256, "small": 128, "base": 64, "large": 32}
"""Ten-second clips of a step."""
STEPS = 4
"""Of a timing."""
WARM_STEPS = 64
"""Before one with drawn lengths: by then nearly all of them were there, and kernels and memory are ready for them."""
GOALS = {"published": "at least 4", "ssast_two_pass": "at least 4.6", "ssast": "at least 2.2", "memory": "at most 0.45"}


def steps(rounds: int = 2, sizes: tuple[str, ...] = tuple(BATCHES)) -> Rows:
    """Each size's step in bf16 against the published one (fp16), SSAST, and the rate of a large matrix product."""
    rows: Rows = []
    for size in sizes:
        rows += step_of(size, BATCHES[size], rounds)
        torch.cuda.empty_cache()
    return rows


def step_of(size: str, batch: int, rounds: int) -> Rows:
    """The rows of one size."""
    clips, goals = bench_pretrain.waveforms(batch), GOALS if size == "base" else {}
    model = dataclasses.replace(preset(size), layerdrop=0.0)
    recipes = {
        kind: bench_pretrain.recipe(model, kind, "bf16", device="cuda")
        for kind in ("mae_ast", "ssast", "ssast_two_pass")
    }
    works = {kind: repeated(bench_pretrain.our_step(recipe, clips)) for kind, recipe in recipes.items()}
    if model.decoder_dim == model.embed_dim:  # else its forward pass fails
        fbank = Fbank(FrontendConfig()).cuda()(clips.cuda())
        works["published"] = repeated(published_step(model, fbank))
    times = in_turn(works, rounds)
    what = f"{size}, batch {batch}, bf16"
    rows = [
        (f"{what}: clips/s over {kind}", f"{ratio(times[kind], times['mae_ast']):.2f}", goals.get(kind, ""))
        for kind in ("published", "ssast_two_pass", "ssast")
        if kind in times
    ]
    taken = statistics.median(times["mae_ast"]) / STEPS
    peak = matmul_peak()
    share = build_flops(recipes["mae_ast"])(batch, clips.shape[1]) / taken / peak
    goal = "at least 45 %" if size == "base" else ""
    rows.append(
        (f"{what}: {batch / taken:.0f} clips/s; share of {peak / 1e12:.0f} TFLOP/s", f"{100 * share:.0f} %", goal)
    )
    kept = {kind: step_memory(works[kind]) for kind in ("mae_ast", "ssast")}
    told = f"{what}: peak memory of a step {kept['mae_ast'] / 2**30:.1f} GiB; of one-pass SSAST's"
    return [*rows, (told, f"{kept['mae_ast'] / kept['ssast']:.2f}", goals.get("memory", ""))]


def repeated(work: Callable[[], object]) -> Callable[[], object]:
    """Several steps: nobody waits for the device between them."""

    def works() -> None:
        for _ in range(STEPS):
            work()

    return works


def step_memory(work: Callable[[], object]) -> int:
    """Most bytes beyond what lies on the device between two steps."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def resident(hours: float = 0.5, seconds: float = 5.0) -> Rows:
    """Hours of crops a second by two recipes of the repository, from the loader's processes and from memory."""
    rows: Rows = []
    workers = max(1, (os.cpu_count() or 1) - 2)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_packed(Path(folder) / "packed", hours)
        for name in ("tiny_gpu", "small"):
            config = str(CONFIGS / f"mae_ast_{name}.yaml")
            recipe = read_recipe(["--config", config, "--data.corpus", str(corpus), "--data.workers", str(workers)])
            rates = {}
            for kind in (True, False):  # what the first one warms is the loader's
                data = dataclasses.replace(recipe.data, on_gpu=kind)
                rates[kind] = crop_rate(dataclasses.replace(recipe, data=data, device="cuda"), seconds)
            what = (
                f"{name}, {recipe.data.batch_clips * recipe.data.crop_seconds:g} s of crops twice, {recipe.precision}"
            )
            rows += [
                (f"{what}: hours of crops a second, loader of {workers} processes", f"{rates[False]:.2f}", ""),
                (f"{what}: the same, corpus in the device's memory", f"{rates[True]:.2f}", ""),
            ]
    return rows


def crop_rate(recipe: Recipe, seconds: float) -> float:
    """Hours of crops a second that training takes up, measured over so many seconds."""
    updater = bench_pretrain.updater_of(recipe)
    source = open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())
    if recipe.data.on_gpu:
        incoming = GpuBatches(source, updater.device).range(0, 100_000)
    else:
        incoming = iter(batches(source, 0, 100_000, recipe.data.workers, pin=True))
    begun, samples = time.monotonic(), 0
    for step, item in enumerate(incoming):
        batch = Batch(*item)
        updater.update([batch], step)
        samples += batch.waveforms.numel()
        if step == WARM_STEPS:
            updater.check()
            begun, samples = time.monotonic(), 0
        elif step > WARM_STEPS and step % STEPS == 0:
            updater.check()
            if time.monotonic() - begun > seconds:
                break
    return samples / SAMPLE_RATE / 3600 / (time.monotonic() - begun)

"""The training step on a GPU: against the published one and SSAST, by size, and with the corpus in its memory."""

import dataclasses
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import bench_pretrain
import torch
from bench_encoder import matmul_peak
from bench_packed import write_packed
from published_step import published_step
from timing import in_turn, ratio

from maeast_upstream.config import read_section
from maeast_upstream.frontend import SAMPLE_RATE, Fbank, FrontendConfig
from maeast_upstream.model import preset
from maeast_upstream.storage.text import read_yaml
from pretrain.data.batches import Batch, BatchSharding, batches
from pretrain.data.corpus import open_training
from pretrain.data.gpu import GpuBatches
from pretrain.recipe import Recipe
from pretrain.training.build import build_flops
from pretrain.training.compiling import compile_network

Rows = list[tuple[str, str, str]]
CONFIGS = Path(__file__).parents[2] / "configs"
STEPS = 4
"""Of a timing."""
WARM_STEPS = 64
"""Before one with drawn lengths: by then nearly all of them were there, and kernels and memory are ready for them."""
GOALS = {"published": "at least 4", "ssast_two_pass": "at least 4.6", "ssast": "at least 2.2", "memory": "at most 0.45"}


def against_others(device: str, size: str = "base", batch: int = 64, rounds: int = 2, seconds: float = 10.0) -> Rows:
    """A size's step in bf16 against the published one (fp16), SSAST, and the rate of a large matrix product."""
    clips, goals = bench_pretrain.waveforms(batch, seconds), GOALS if size == "base" else {}
    recipes = {kind: recipe_of(size, kind, device) for kind in ("mae_ast", "ssast", "ssast_two_pass")}
    works = {kind: repeated(bench_pretrain.our_step(recipe, clips)) for kind, recipe in recipes.items()}
    model = recipes["mae_ast"].model
    if model.decoder_dim == model.embed_dim and find_spec("s3prl"):  # with other widths its forward pass fails
        fbank = Fbank(FrontendConfig()).to(device)(clips.to(device))
        works["published"] = repeated(published_step(model, fbank))
    times = in_turn(works, rounds)
    what = f"{size}, batch {batch}, bf16"
    rows = [
        (f"{what}: clips/s over {kind}", f"{ratio(times[kind], times['mae_ast']):.2f}", goals.get(kind, ""))
        for kind in ("published", "ssast_two_pass", "ssast")
        if kind in times
    ]
    rows.append(share_row(what, recipes["mae_ast"], clips, times["mae_ast"]))
    if device == "cuda":
        kept = {kind: step_memory(works[kind]) for kind in ("mae_ast", "ssast")}
        told = f"{what}: peak memory of a step {kept['mae_ast'] / 2**30:.1f} GiB; of one-pass SSAST's"
        rows.append((told, f"{kept['mae_ast'] / kept['ssast']:.2f}", goals.get("memory", "")))
    return rows


def alone(device: str, size: str, batch: int, rounds: int = 3, seconds: float = 10.0) -> Rows:
    """A size's step in bf16 at a large batch."""
    recipe, clips = recipe_of(size, "mae_ast", device), bench_pretrain.waveforms(batch, seconds)
    times = in_turn({"ours": repeated(bench_pretrain.our_step(recipe, clips))}, rounds)["ours"]
    return [share_row(f"{size}, batch {batch}, bf16", recipe, clips, times)]


def largest(device: str, size: str = "base", probe: int = 64, seconds: float = 10.0) -> Rows:
    """The step at the largest batch that the device's memory holds."""
    if device != "cuda":
        return alone(device, size, 2 * probe, 1, seconds)
    work = bench_pretrain.our_step(recipe_of(size, "mae_ast", device), bench_pretrain.waveforms(probe, seconds))
    work()
    per_clip = step_memory(work) / probe
    del work
    gc.collect()
    torch.cuda.empty_cache()
    return alone(device, size, largest_batch(per_clip, torch.cuda.mem_get_info()[0]), 2, seconds)


def largest_batch(per_clip: float, free: int, share: float = 0.8, multiple: int = 64, most: int = 2048) -> int:
    """The most clips, a multiple of ``multiple``, of which each needs so many bytes of a share of the free ones."""
    return min(most, max(multiple, int(share * free / per_clip) // multiple * multiple))


def compiled(device: str, size: str = "base", batch: int = 64, rounds: int = 3, seconds: float = 10.0) -> Rows:
    """What `compile: true` saves of a size's step, and how long compiling takes."""
    recipe, clips = recipe_of(size, "mae_ast", device), bench_pretrain.waveforms(batch, seconds)
    eager = bench_pretrain.our_step(recipe, clips)
    updater, whole = bench_pretrain.updater_of(recipe), bench_pretrain.whole_batch(clips)
    begun = time.monotonic()
    compile_network(updater.objective, updater.device, lengths_vary=False, one_micro_batch=True)
    updater.warm_up(whole)
    taken = time.monotonic() - begun
    works = {"eager": repeated(eager), "compiled": repeated(lambda: updater.update([whole], 0))}
    times = in_turn(works, rounds)
    what = f"{size}, batch {batch}, bf16: compiled in {taken:.0f} s; eager's time / compiled"
    return [
        (what, f"{ratio(times['eager'], times['compiled']):.2f}", ""),
        share_row(f"{size}, batch {batch}, bf16, compiled", recipe, clips, times["compiled"]),
    ]


def recipe_of(size: str, objective: str, device: str) -> Recipe:
    """A step of the paper's settings in bf16."""
    model = dataclasses.replace(preset(size), layerdrop=0.0)
    return bench_pretrain.recipe(model, objective, "bf16", device=device)


def share_row(what: str, recipe: Recipe, clips: torch.Tensor, times: list[float]) -> tuple[str, str, str]:
    """Clips per second, and the share of the rate of a large matrix product."""
    taken, peak = statistics.median(times) / STEPS, matmul_peak(recipe.device or "cpu")
    share = build_flops(recipe)(len(clips), clips.shape[1]) / taken / peak
    goal = "at least 45 %" if what.startswith("base") else ""
    return f"{what}: {len(clips) / taken:.4g} clips/s; share of {peak / 1e12:.3g} TFLOP/s", f"{100 * share:.0f} %", goal


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


def resident(
    device: str, name: str = "tiny_gpu", hours: float = 2.0, seconds: float = 60.0, compiled: bool = False
) -> Rows:
    """Hours of crops a second that a recipe of the repository takes up, with the corpus in the device's memory."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_packed(Path(folder) / "packed", hours)
        config = CONFIGS / f"mae_ast_{name}.yaml"
        recipe = read_section(Recipe, read_yaml(config), str(config))
        data = dataclasses.replace(recipe.data, corpus=str(corpus), workers=0)
        if device == "cpu":
            data = dataclasses.replace(data, batch_clips=8, max_crop_seconds=1.5, on_gpu=False)
        rate = crop_rate(dataclasses.replace(recipe, data=data, device=device), seconds, compiled)
    what = f"{name}, {data.batch_clips * data.crop_seconds:g} s of crops twice, {recipe.precision}"
    what += ", compiled" if compiled else ""
    return [(f"{what}: hours of crops a second", f"{rate:.3g}", "")]


def crop_rate(recipe: Recipe, seconds: float, compiled: bool = False) -> float:
    """Hours of crops a second that training takes up, measured over so many seconds."""
    updater = bench_pretrain.updater_of(recipe)
    warm_steps = WARM_STEPS if updater.device.type == "cuda" else 1
    if compiled:
        compile_network(updater.objective, updater.device, recipe.data.lengths_vary, one_micro_batch=True)
    source = open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())
    if recipe.data.on_gpu:
        incoming = GpuBatches(source, updater.device).range(0, 100_000)
    else:
        incoming = iter(batches(source, 0, 100_000, recipe.data.workers, pin=updater.device.type == "cuda"))
    begun, samples = time.monotonic(), 0
    for step, item in enumerate(incoming):
        batch = Batch(*item)
        updater.update([batch], step)
        samples += batch.waveforms.numel()
        if step == warm_steps:
            updater.check()
            begun, samples = time.monotonic(), 0
        elif step > warm_steps and step % STEPS == 0:
            updater.check()
            if time.monotonic() - begun > seconds:
                break
    return samples / SAMPLE_RATE / 3600 / (time.monotonic() - begun)

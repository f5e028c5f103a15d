"""The training step against the published MAE-AST step and against SSAST, one group of rows after the other.

``make bench-pretrain`` runs all groups, each in a process of its own, and writes docs/results/benchmarks/.
"""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from published_step import published_step
from timing import in_turn, ratio, seconds
from torch._inductor.utils import fresh_cache

from maeast_upstream.config import Normalisation
from maeast_upstream.frontend import Fbank, FrontendConfig
from maeast_upstream.model import ModelConfig, preset
from maeast_upstream.modules.cpu.memory import keep_freed_memory
from maeast_upstream.storage.packaged import configs_folder
from maeast_upstream.visualization.figures import drawing
from pretrain.cli import read_recipe
from pretrain.config import DataConfig, LossConfig, MaskConfig, OptimConfig
from pretrain.data.batches import Batch
from pretrain.recipe import Recipe
from pretrain.training.build import build_flops, build_objective, build_updater
from pretrain.training.compiling import compile_network
from pretrain.training.distributed import Parallel
from pretrain.training.step import DTYPES, Updater

Rows = list[tuple[str, str, str]]
PRECISIONS = ("fp32", "bf16")
PICTURE = Path(__file__).parents[2] / "docs" / "results" / "benchmarks" / "pretrain-sweep.png"
SECONDS, BATCH, RATIO = 10.0, 16, 0.75
SIDE, PRODUCTS = 1024, 200
PRODUCTS_FLOPS = PRODUCTS * 2 * SIDE**3
DECODERS = {
    "2 x 384": ({"decoder_dim": 384, "decoder_heads": 6, "decoder_ffn_dim": 1536}, 1.0),
    "4 x 384": ({"decoder_dim": 384, "decoder_heads": 6, "decoder_ffn_dim": 1536, "decoder_depth": 4}, 1.0),
    "cross-attention 2 x 384, a third of the masked tokens": (
        {"decoder_dim": 384, "decoder_heads": 6, "decoder_ffn_dim": 1536, "decoder_attention": "cross"},
        1 / 3,
    ),
}


def recipe(
    model: ModelConfig | None = None,
    objective: str = "mae_ast",
    precision: str = "fp32",
    share: float = 1.0,
    ratio: float = RATIO,
    device: str = "cpu",
) -> Recipe:
    """The paper's settings but for layerdrop, which would have each step do other work; SSAST has no decoder."""
    model = dataclasses.replace(model or preset("base"), layerdrop=0.0)
    if objective != "mae_ast":
        model = dataclasses.replace(model, decoder_depth=0)
    return Recipe(
        objective=objective,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        device=device,
        model=model,
        data=DataConfig(batch_clips=BATCH),
        masking=MaskConfig(chunk_share=1.0, ratio=ratio),
        losses=LossConfig(masked_share=share),
        optim=OptimConfig(lr=1e-7),
    )


def waveforms(clips: int = BATCH, seconds: float = SECONDS) -> torch.Tensor:
    """(clips, S) noise."""
    return 0.1 * torch.randn(clips, round(16_000 * seconds), generator=torch.Generator().manual_seed(0))


def updater_of(recipe: Recipe) -> Updater:
    """What a run has."""
    torch.manual_seed(0)
    parallel = Parallel(recipe.device, "ddp")
    objective = build_objective(recipe, Normalisation(mean=-5.0, std=4.0)).train().to(parallel.device)
    return build_updater(recipe, objective, parallel)


def our_step(recipe: Recipe, clips: torch.Tensor) -> Callable[[], object]:
    """One update, from waveforms: front end, masks, both passes, optimiser."""
    if recipe.device == "cpu":
        keep_freed_memory()  # as a run does; the other side has it too, since it is the process's
    else:
        clips = clips.pin_memory()
    updater, batch = updater_of(recipe), whole_batch(clips)
    return lambda: updater.update([batch], 0)


def whole_batch(clips: torch.Tensor) -> Batch:
    """(count, S) clips as a loader gives them."""
    count = len(clips)
    lengths = torch.full((count,), clips.shape[1])
    numbers = tuple(range(count))
    return Batch(clips, lengths, 0, count, numbers, count, (), torch.zeros_like(lengths), numbers)


def published(rounds: int = 2, batch: int = BATCH, size: str = "base") -> Rows:
    """Our step in both precisions against the published one, and the share of the matrix products' own rate."""
    clips = waveforms(batch)
    model = preset(size, decoder_dim=preset(size).embed_dim) if size == "tiny" else preset(size)
    model = dataclasses.replace(model, layerdrop=0.0)
    model = dataclasses.replace(model, decoder_heads=model.num_heads, decoder_ffn_dim=model.ffn_dim)
    recipes = {precision: recipe(model, precision=precision) for precision in PRECISIONS}
    works = {precision: our_step(own, clips) for precision, own in recipes.items()}
    works["published"] = published_step(model, Fbank(FrontendConfig())(clips))
    works |= {f"products {precision}": products(DTYPES[precision]) for precision in PRECISIONS}
    times = in_turn(works, rounds)
    rows = []
    for precision in PRECISIONS:
        what = f"{size}, batch {batch}, {precision}: clips/s over the published step (fp32)"
        goal = {"fp32": "at least 1.15", "bf16": "at least 3.3"}[precision] if size == "base" else ""
        rows.append((what, f"{ratio(times['published'], times[precision]):.2f}", goal))
    if size != "base":
        return rows
    for precision in PRECISIONS:
        ideal = build_flops(recipes[precision])(batch, clips.shape[1]) / PRODUCTS_FLOPS  # runs of `products`
        share = ideal * ratio(times[f"products {precision}"], times[precision])
        peak = PRODUCTS_FLOPS / statistics.median(times[f"products {precision}"])
        rate = f"{batch / statistics.median(times[precision]):.2f} clips/s"
        what = f"{size}, batch {batch}, {precision}: {rate}; share of the matrix product, {peak / 1e9:.0f} GFLOP/s"
        rows.append((what, f"{100 * share:.0f} %", {"fp32": "at least 80 %", "bf16": "at least 50 %"}[precision]))
    return rows


def products(dtype: torch.dtype) -> Callable[[], object]:
    """Large matrix products, one after the other, that take as long as a part of a step does."""
    one, other = (torch.randn(SIDE, SIDE, dtype=dtype) for _ in range(2))

    def work() -> None:
        for _ in range(PRODUCTS):
            one @ other

    return work


def ssast(precision: str, rounds: int = 1, batch: int = BATCH, size: str = "base") -> Rows:
    """Our MAE-AST against our SSAST, in one and in two passes."""
    clips, model = waveforms(batch), preset(size)
    recipes = {kind: recipe(model, kind, precision) for kind in ("mae_ast", "ssast", "ssast_two_pass")}
    times = in_turn({kind: our_step(own, clips) for kind, own in recipes.items()}, rounds)
    flops = {kind: build_flops(own)(batch, clips.shape[1]) for kind, own in recipes.items()}
    goals = {"ssast_two_pass": "at least 4.7", "ssast": "at least 2.3"} if size == "base" else {}
    return [
        (
            f"{size}, batch {batch}, {precision}: clips/s over {kind}; arithmetic {flops[kind] / flops['mae_ast']:.2f}",
            f"{ratio(times[kind], times['mae_ast']):.2f}",
            goals.get(kind, ""),
        )
        for kind in ("ssast_two_pass", "ssast")
    ]


def decoders(precision: str, rounds: int = 1, batch: int = BATCH) -> Rows:
    """The lighter decoders against one-pass SSAST, as a share of what their arithmetic promises."""
    clips = waveforms(batch)
    recipes = {"ssast": recipe(objective="ssast", precision=precision)}
    for name, (shape, share) in DECODERS.items():
        recipes[name] = recipe(preset("base", **shape), precision=precision, share=share)
    times = in_turn({name: our_step(own, clips) for name, own in recipes.items()}, rounds)
    flops = {name: build_flops(own)(batch, clips.shape[1]) for name, own in recipes.items()}
    rows = []
    for name in DECODERS:
        faster, bound = ratio(times["ssast"], times[name]), flops["ssast"] / flops[name]
        what = f"base, batch {batch}, {precision}, decoder {name}: {faster:.2f} times one-pass SSAST"
        what += f", share of its bound {bound:.2f}"
        rows.append((what, f"{100 * faster / bound:.0f} %", "at least 88 %"))
    return rows


def memory(batch: int = 4) -> Rows:
    """What the backward pass keeps, weights apart, against one-pass SSAST at the same batch: counted, not timed."""
    rows = []
    for precision in PRECISIONS:
        kept = {kind: kept_bytes(recipe(objective=kind, precision=precision), batch) for kind in ("mae_ast", "ssast")}
        what = f"base, batch {batch}, {precision}: {kept['mae_ast'] / batch / 2**20:.0f} MiB a clip kept for backward"
        rows.append((f"{what}; of one-pass SSAST's", f"{kept['mae_ast'] / kept['ssast']:.2f}", "at most 0.5"))
    return rows


def kept_bytes(recipe: Recipe, batch: int, seconds: float = SECONDS) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without the weights and their casts."""
    updater = updater_of(recipe)
    objective, clips = updater.objective, waveforms(batch, seconds)
    patches, masks = updater.prepare(whole_batch(clips), (0, 0))
    weights = {shape for p in objective.parameters() for shape in (tuple(p.shape), tuple(reversed(p.shape)))}
    storages: dict[int, int] = {}
    alive = []

    def pack(value: torch.Tensor) -> torch.Tensor:
        if tuple(value.shape) not in weights:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            alive.append(value)
        return value

    with updater.arithmetic(), torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        losses = objective(patches, *masks)
    del losses
    return sum(storages.values())


def sizes(rounds: int = 1) -> Rows:
    """Do the savings grow with size? Small batches, so that the whole stays short."""
    rows: Rows = []
    for size, batch in (("tiny", 8), ("small", 4), ("large", 1)):
        rows += published(rounds, batch, size)
        rows += ssast("bf16", rounds, batch, size)
    return rows


def compiled(rounds: int = 3) -> Rows:
    """What compiling costs with an empty cache, and the step after it against the step that is not compiled.

    Without dropout, as the tiny recipes have it; with dropout a compiled step is slower on a CPU.
    """
    tiny = read_recipe(["--config", str(configs_folder() / "mae_ast_tiny.yaml"), "--device", "cpu"])
    none = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout"), 0.0)
    base = recipe(preset("base", **none), precision="bf16")
    return [
        *compiled_rows("mae_ast_tiny.yaml", tiny, waveforms(2 * tiny.data.batch_clips, tiny.data.crop_seconds), rounds),
        *compiled_rows("base without dropout", base, waveforms(BATCH), rounds),
    ]


def compiled_rows(name: str, own: Recipe, clips: torch.Tensor, rounds: int) -> Rows:
    """Seconds to compile, and the clips per second that it gains."""
    updater, batch = updater_of(own), whole_batch(clips)
    compile_network(updater.objective, updater.device, own.data.lengths_vary)
    with fresh_cache():
        taken = seconds(lambda: updater.warm_up(batch))
        times = in_turn({"plain": our_step(own, clips), "compiled": lambda: updater.update([batch], 0)}, rounds)
    what = f"{name}, {own.precision}, batch {clips.shape[0]} x {clips.shape[1] / 16_000:g} s"
    return [
        (f"{what}: seconds to compile with an empty cache", f"{taken:.0f}", ""),
        (
            f"{what}: clips/s compiled over not compiled",
            f"{ratio(times['plain'], times['compiled']):.2f}",
            "at least 1.05",
        ),
    ]


def sweep(rounds: int = 1, batch: int = 2, picture: Path | None = PICTURE) -> Rows:
    """Seconds and memory of a step by the length of the clips, and by the share that is masked."""
    rows: Rows = []
    points: dict[str, list[tuple[float, float, float]]] = {"seconds of a clip": [], "share masked": []}
    for axis, values in (("seconds of a clip", (5, 10, 20, 30, 60)), ("share masked", (0.5, 0.6, 0.75, 0.9))):
        for value in values:
            seconds, share = (float(value), RATIO) if axis == "seconds of a clip" else (SECONDS, float(value))
            own = recipe(precision="bf16", ratio=share)
            work = our_step(own, waveforms(batch, seconds))
            taken = statistics.median(in_turn({"ours": work}, rounds)["ours"])
            kept = kept_bytes(own, batch, seconds) / batch / 2**20
            points[axis].append((value, 1000 * taken / batch, kept))
            what = f"base, batch {batch}, bf16, {seconds:g} s, {share:.0%} masked: ms and MiB kept, a clip"
            rows.append((what, f"{1000 * taken / batch:.0f} ms, {kept:.0f} MiB", ""))
    if picture is not None:
        draw(points, picture)
    return rows


def draw(points: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Time and memory over each axis."""
    with drawing(path, 8, 3) as figure:
        for axis, (name, values) in zip(figure.subplots(1, 2), points.items(), strict=True):
            x, milliseconds, mebibytes = zip(*values, strict=True)
            axis.plot(x, milliseconds, marker="o", color="C0")
            axis.set(xlabel=name, ylim=(0, None))
            axis.set_ylabel("ms of a clip's step", color="C0")
            other = axis.twinx()
            other.plot(x, mebibytes, marker="s", color="C1")
            other.set_ylim(0, None)
            other.set_ylabel("MiB kept of a clip", color="C1")


GROUPS: dict[str, Callable[[], Rows]] = {
    "pretrain-published": published,
    "pretrain-ssast-fp32": lambda: ssast("fp32"),
    "pretrain-ssast-bf16": lambda: ssast("bf16"),
    "pretrain-decoders-fp32": lambda: decoders("fp32"),
    "pretrain-decoders-bf16": lambda: decoders("bf16"),
    "pretrain-memory": memory,
    "pretrain-sizes": sizes,
    "pretrain-compiled": compiled,
    "pretrain-sweep": sweep,
}
"""Each is below five minutes on two cores."""

"""HEAR's two functions on the base patch model: time steps at 40 ms against native passes, scenes against s3prl's."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from bench_encoder import equal_clips
from reference import load_expert
from timing import in_turn, ratio

from hear_api import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from maeast_upstream.encoder import Precision

CLIPS = 2
SHIFT_SAMPLES = 640
SHIFTS = 4
Rows = list[tuple[str, str, str]]


def run(checkpoint: Path, rounds: int = 3) -> Rows:
    """Rows (what, measured, wanted)."""
    audio = torch.stack(equal_clips(CLIPS))
    long = torch.cat([audio.flatten(), audio[0]])[None]
    rows = timestamp_rows(checkpoint, audio, rounds) + timestamp_rows(checkpoint, long, rounds, ("fp32",))
    return rows + scene_rows(checkpoint, audio, rounds)


def timestamp_rows(
    checkpoint: Path, audio: torch.Tensor, rounds: int, precisions: tuple[Precision, ...] = ("fp32", "bf16")
) -> Rows:
    """What time steps at 40 ms cost; the shorter a clip, the more of its steps' tokens reach beyond its end."""
    works: dict[str, Callable[[], object]] = {}
    for precision in precisions:
        model = load_model(str(checkpoint), precision=precision)
        works[precision] = lambda model=model: get_timestamp_embeddings(audio, model)
        works[f"native {precision}"] = lambda model=model: native(audio, model)
        if precision == "fp32":
            works["naive"] = lambda model=model: [native(audio[:, i * SHIFT_SAMPLES :], model) for i in range(SHIFTS)]
    times = in_turn(works, rounds)
    tokens = grid_tokens(audio.shape[1], model)
    what = f"{len(audio)} clips of {audio.shape[1] / 16_000:g} s, time steps at 40 ms"
    rows = [
        (
            f"{what}, {name}: native passes (of their tokens: {tokens:.2f})",
            f"{ratio(times[name], times[f'native {name}']):.2f}",
            "at most 4.05",
        )
        for name in precisions
    ]
    if "bf16" not in precisions:
        return rows
    speed = ratio(times["naive"], times["bf16"])
    return [*rows, (f"{what}: four float32 passes from the waveform / bf16", f"{speed:.2f}", "at least 2.5")]


def grid_tokens(samples: int, model: HearModel) -> float:
    """How many times a native pass's tokens time steps at 40 ms are made of."""
    grid = model.encoder.grid(model.steps.hop_ms).averaged()
    return (grid.steps(samples) + grid.tokens_per_step - 1) / model.encoder.grid(None).steps(samples)


def native(audio: torch.Tensor, model: HearModel) -> object:
    """A pass of the encoder on its own grid, that keeps what the model's time steps are made of."""
    layers = model.steps.layers(model.encoder.num_layers)
    return model.encoder.encode(audio, layers=layers, mel=model.steps.mel)


def scene_rows(checkpoint: Path, audio: torch.Tensor, rounds: int) -> Rows:
    """Scene embeddings against the mean over time of the last layer of s3prl's mae_ast_local."""
    expert = load_expert(checkpoint)
    clips = list(audio)

    @torch.no_grad()
    def theirs() -> torch.Tensor:
        steps: torch.Tensor = expert(clips)["hidden_states"][-1]
        return steps.mean(dim=1)

    works: dict[str, Callable[[], object]] = {"s3prl": theirs}
    for precision in ("fp32", "bf16"):
        model = load_model(str(checkpoint), precision=precision)
        works[precision] = lambda model=model: get_scene_embeddings(audio, model)
        alike = F.cosine_similarity(get_scene_embeddings(audio, model), theirs()).min()
        assert alike > 0.999, f"{precision} gives other vectors than s3prl's (cosine {alike:.4f})"
    times = in_turn(works, rounds)
    what = f"{len(clips)} clips of {audio.shape[1] / 16_000:g} s, scene embeddings"
    wanted = {"fp32": "", "bf16": "at least 3"}
    return [
        (f"{what}, {name}: s3prl's time / ours", f"{ratio(times['s3prl'], times[name]):.2f}", goal)
        for name, goal in wanted.items()
    ]

"""Computes what the package gives for real clips, through its public names only, with the bundled checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

import hear_api
from maeast_upstream import load_model
from maeast_upstream.expert import UpstreamExpert
from pretrain.cli import main as pretrain

ROOT = Path(__file__).resolve().parents[2]
AUDIO = ROOT / "tests" / "data" / "audio"
CLIPS = sorted(path.name for path in AUDIO.glob("*.opus"))[::4]
"""One of each class and a few more."""
SPOKEN, DRUMS = "seven-flite_slt_1_0.opus", "long_drums.opus"
STORED_DIMENSIONS = 8
"""Every eighth dimension is stored, so that the file stays small."""


def read_clip(name: str) -> Tensor:
    return torch.from_numpy(soundfile.read(AUDIO / name, dtype="float32")[0])


def scenes() -> dict[str, Tensor]:
    """Vectors as version 0.1.0 gave them: not whitened."""
    encoder = load_model()
    vectors = encoder.embed([read_clip(name) for name in CLIPS], readout=encoder.config.readout.full)
    return {name: vector[::STORED_DIMENSIONS] for name, vector in zip(CLIPS, vectors, strict=True)}


def time_steps() -> dict[str, Tensor]:
    """Every layer of a short clip, 40 ms steps of another, and windows over a clip of more than a minute."""
    encoder = load_model()
    short = encoder.encode([read_clip(SPOKEN)[:8000]], mel="mean")
    fine = encoder.encode([read_clip(SPOKEN)[:16_000]], layers=[encoder.num_layers], mel="mean", hop_ms=40.0)
    long_clip = read_clip(DRUMS).repeat(6)[: 61 * 16_000]
    windows = encoder.encode([long_clip], layers=[encoder.num_layers], mel="mean")
    return {
        **{f"layer {number}": state for number, state in enumerate(short.hidden_states, start=1)},
        "times in ms": short.times_ms,
        "40 ms": fine.hidden_states[0],
        "40 ms, times in ms": fine.times_ms,
        "windows": windows.hidden_states[0][:, ::10],
        "windows, times in ms": windows.times_ms,
    }


def upstream() -> dict[str, Tensor]:
    """Features of a padded batch, as s3prl gets them."""
    expert = UpstreamExpert().eval()
    with torch.no_grad():
        states = expert([read_clip(SPOKEN)[:samples] for samples in (400, 5000, 12_000)])["hidden_states"]
    return {f"layer {number}": states[number - 1][..., ::STORED_DIMENSIONS] for number in (1, 6, 12)}


def hear() -> dict[str, Tensor]:
    model, values = hear_api.load_model(), {}
    for samples in (1600, 8000, 16_000):
        embeddings, times = hear_api.get_timestamp_embeddings(read_clip(DRUMS)[None, :samples], model)
        values[f"{samples} samples"] = embeddings[..., ::STORED_DIMENSIONS]
        values[f"{samples} samples, times in ms"] = times
    return values


def pretraining(folder: Path) -> dict[str, Tensor]:
    """Losses, and some of the weights, of the first steps of configs/debug_cpu.yaml."""
    run, steps = folder / "run", "6"
    options = {"out": run, "data.corpus": AUDIO, "data.packed": folder / "packed", "data.workers": 0, "device": "cpu"}
    options |= {"optim.steps": steps, "optim.warmup_steps": 2, "optim.decay_steps": 2}
    options |= {"log_every": 2, "save_every": steps, "tensorboard": "false"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    assert pretrain(["--config", str(ROOT / "configs" / "debug_cpu.yaml"), *arguments]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(run / "last" / "model.safetensors")
    kept = ("patch_embed.weight", "encoder.blocks.2.fc2.weight", "reconstruction_head.bias")
    return {
        "losses": torch.tensor([[line["loss"], line["reconstruction"], line["classification"]] for line in lines]),
        **{name: weights[name] for name in kept},
    }


def all_outputs(folder: Path) -> dict[str, Tensor]:
    """Every output by its name; ``folder`` is where pretraining may write."""
    groups: dict[str, Callable[[], dict[str, Tensor]]] = {
        "scene": scenes,
        "time steps": time_steps,
        "s3prl": upstream,
        "hear": hear,
        "pretraining": lambda: pretraining(folder),
    }
    return {f"{group}/{name}": value for group, compute in groups.items() for name, value in compute().items()}

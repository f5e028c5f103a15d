"""An epoch of KS as s3prl's runner trains it, frozen, with `mae_ast` against s3prl's own `mae_ast_local`.

Clips of keywords of 0.24 to 1.08 s, batches of 32, read from disk by s3prl's loader. They are made of the words in
tests/data, unless the variable MAEAST_KEYWORDS names a labels.csv of others.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from superb_sets import WORDS, joined, sounds, write
from timing import in_turn, ratio

from maeast_upstream.commands.superb_data import main as superb_data
from maeast_upstream.integrations.s3prl.configs import read_config

CLIPS = 585
"""Training clips: as many as keywords_tts has."""
SHORTEST, LONGEST = 0.24, 1.08


def run(checkpoint: Path, clips: int = CLIPS, rounds: int = 3) -> list[tuple[str, str, str]]:
    """Rows (what, measured, wanted)."""
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        config = ks(folder, clips)
        steps = config["runner"]["total_steps"]
        times = in_turn(
            {
                "s3prl": epoch("mae_ast_local", checkpoint, config, folder),
                "fp32": epoch("mae_ast", checkpoint, config, folder),
                "bf16": epoch("mae_ast", checkpoint, config, folder, "bf16"),
            },
            rounds,
        )
    what = f"an epoch of KS, {steps} batches of 32 keywords, frozen"
    return [
        (f"{what}, {name}: s3prl's time / ours", f"{ratio(times['s3prl'], times[name]):.2f}", wanted)
        for name, wanted in (("fp32", "at least 1.5"), ("bf16", "at least 3"))
    ]


def ks(folder: Path, clips: int) -> dict[str, Any]:
    """The layout of KS and a config of one epoch, without evaluation."""
    given = os.environ.get("MAEAST_KEYWORDS")
    labels = Path(given) if given else keywords(folder, clips)
    superb_data(["ks", str(labels), "-o", str(folder / "ks"), "--noise", "made"])
    config = read_config(folder / "ks" / "config.yaml")
    files = sum(1 for path in (folder / "ks" / "train").glob("*/*.wav") if in_train(path))
    steps = files // config["downstream_expert"]["datarc"]["batch_size"]
    never = 1_000_000
    config["runner"].update(total_steps=steps, log_step=steps, eval_step=never, save_step=never)
    return config


def in_train(path: Path) -> bool:
    """Whether s3prl's training epoch has a file: its noise, and what the name's hash gives it."""
    from maeast_upstream.integrations.s3prl.layouts import NOISE, ks_percent

    return path.parent.name == NOISE or ks_percent(path.name.split("_nohash_")[0]) >= 20


def keywords(folder: Path, clips: int) -> Path:
    """Words of tests/data, cut and joined to lengths that are evenly spread, as a labels.csv."""
    lengths = np.random.default_rng(0).permutation(np.linspace(SHORTEST, LONGEST, clips))
    streams = {word: sounds(word) for word in (*WORDS, "zero")}
    rows = ["path,label,split"]
    splits = itertools.chain(["train"] * clips, ["valid", "test"] * len(streams))
    for number, (split, word) in enumerate(zip(splits, itertools.cycle(streams), strict=False)):
        seconds = float(lengths[number % clips])
        path = write(folder / "clips" / f"{number}.wav", joined(streams[word], seconds))
        rows.append(f"{path},{word},{split}")
    labels = folder / "labels.csv"
    labels.write_text("\n".join(rows) + "\n")
    return labels


def epoch(
    name: str, checkpoint: Path, config: dict[str, Any], folder: Path, precision: str = "fp32"
) -> Callable[[], None]:
    """s3prl's training of one epoch with an upstream that is loaded already."""
    importlib.import_module("maeast_upstream.superb")  # registers mae_ast, and lets the next line work
    runner_class = importlib.import_module("s3prl.downstream.runner").Runner

    options = None
    if name == "mae_ast":
        options = folder / f"{precision}.yaml"
        options.write_text(f"precision: {precision}\n")
    expdir = folder / f"{name}-{precision}"
    expdir.mkdir()
    args = argparse.Namespace(
        upstream=name,
        upstream_ckpt=str(checkpoint),
        upstream_model_config=None if options is None else str(options),
        upstream_refresh=False,
        upstream_trainable=False,
        upstream_feature_selection="hidden_states",
        upstream_layer_selection=None,
        upstream_feature_normalize=False,
        downstream="speech_commands",
        expdir=str(expdir),
        init_ckpt=None,
        device="cpu",
        seed=0,
        push_to_hf_hub=False,
    )
    runner = runner_class(args, config)

    def train() -> None:
        torch.manual_seed(0)  # the same clips in the same batches
        runner.train()

    return train


@contextlib.contextmanager
def quiet() -> Any:
    """Without s3prl's bars and lines."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield

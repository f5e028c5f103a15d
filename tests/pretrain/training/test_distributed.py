"""Real processes that share a batch, as torchrun starts them (gloo, CPU)."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import small_config

from maeast_upstream import load_model
from pretrain.config import LossConfig
from pretrain.training.run_folder import states

ROOT = Path(__file__).parents[3]


@pytest.fixture
def shared(recipe):
    """A recipe without dropout, of which only the first loss is computed over clips of one process."""
    model = small_config(dropout=0.0, layerdrop=0.0, attention_dropout=0.0, input_dropout=0.0)
    data = dataclasses.replace(recipe.data, batch_clips=8)
    optim = dataclasses.replace(recipe.optim, ema_decay=0.9)
    return dataclasses.replace(
        recipe,
        model=model,
        data=data,
        optim=optim,
        losses=LossConfig(),
        log_every=1,
        tensorboard=False,
    )


def train(recipe, folder, processes, *options):
    """Start it; the losses of each batch."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [
        sys.executable,
        *launcher,
        "-m",
        "pretrain",
        "--config",
        str(path),
        *options,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, timeout=300)


def losses(out):
    return [json.loads(line)["loss"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one_and_go_on_after_a_stop(shared, tmp_path, sharding):
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(shared, tmp_path, 1, "--out", str(one)).returncode == 0
    options = ["--out", str(two), "--sharding", sharding]
    short = train(shared, tmp_path, 2, *options, "--max_minutes", "0.0000001")
    assert short.returncode == 0, short.stderr
    assert len(losses(two)) == 1
    rest = train(shared, tmp_path, 2, *options)
    assert rest.returncode == 0, rest.stderr
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    weights, others = (load_model(out).network.state_dict() for out in (one, two))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-4, rtol=1e-3)
    moments, other = (torch.load(states(out)[-1], weights_only=True)["optimizer"]["state"] for out in (one, two))
    assert all(torch.allclose(moments[n]["exp_avg"], other[n]["exp_avg"], atol=1e-4) for n in moments)


def test_an_accumulated_batch_is_the_same_batch(shared, tmp_path):
    for parts in (1, 2):
        done = train(
            shared,
            tmp_path,
            1,
            "--out",
            str(tmp_path / str(parts)),
            "--optim.accumulate",
            str(parts),
        )
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), abs=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused_with_both_numbers(shared, tmp_path):
    result = train(shared, tmp_path, 1, "--out", str(tmp_path / "x"), "--optim.accumulate", "3")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "data.batch_clips 8 is not to be shared by 1 processes x optim.accumulate 3" in result.stderr

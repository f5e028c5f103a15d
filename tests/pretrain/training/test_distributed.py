"""Real processes that share a batch, as torchrun starts them (gloo, CPU)."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import small_config

from maeast_upstream import load_model
from pretrain.config import LossConfig, MaskConfig
from pretrain.training.run_folder import states

pytestmark = pytest.mark.slow


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


@pytest.fixture
def train(launch, tmp_path):
    """A function that trains to the end in one process or several; the exit status and what they wrote."""

    def train(recipe, processes, *options):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
        return launch([sys.executable, *launcher, "-m", "pretrain", "--config", str(path), *options]).result()

    return train


def losses(out):
    return [json.loads(line)["loss"] for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


TOKENS = LossConfig(latent=1.0, latent_decay=0.5, masked_share=0.5, cluster=1.0)


@pytest.mark.parametrize(
    ("sharding", "losses_config"),
    [("ddp", LossConfig()), ("fsdp", LossConfig()), ("ddp", TOKENS), ("fsdp", TOKENS)],
    ids=["ddp", "fsdp", "ddp, token targets", "fsdp, token targets"],
)
def test_two_processes_give_the_losses_of_one_and_continue_after_a_stop(
    shared, train, tmp_path, sharding, losses_config, clusters
):
    folder = str(clusters) if losses_config.cluster else None
    shared = dataclasses.replace(shared, losses=losses_config, clusters=folder)
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(shared, 1, "--out", str(one))[0] == 0
    options = ["--out", str(two), "--sharding", sharding]
    status, errors = train(shared, 2, *options, "--max_minutes", "0.0000001")
    assert status == 0, errors
    assert len(losses(two)) == 1
    status, errors = train(shared, 2, *options)
    assert status == 0, errors
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    weights, others = (load_model(out).network.state_dict() for out in (one, two))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, atol=1e-4, rtol=1e-3)
    state, other_state = (torch.load(states(out)[-1], weights_only=True) for out in (one, two))
    for name, value in state["objective"].items():
        torch.testing.assert_close(other_state["objective"][name], value, atol=1e-4, rtol=1e-3)
    moments, other = (saved["optimizer"]["state"] for saved in (state, other_state))
    assert all(torch.allclose(moments[n]["exp_avg"], other[n]["exp_avg"], atol=1e-4) for n in moments)


def test_an_accumulated_batch_is_the_same_batch(shared, train, tmp_path):
    for steps in ("1", "2"):
        status, errors = train(shared, 1, "--out", str(tmp_path / steps), "--optim.accumulation_steps", steps)
        assert status == 0, errors
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), abs=1e-4)


def test_two_processes_share_batches_by_samples_with_official_masks(shared, train, tmp_path):
    data = dataclasses.replace(shared.data, batch_by="samples", batch_samples=200_000, max_counted_samples=20_000)
    masking = MaskConfig(chunk_official_share=1.0)
    by_samples = dataclasses.replace(shared, data=data, masking=masking, normalisation="batch")
    for processes in (1, 2):
        status, errors = train(by_samples, processes, "--out", str(tmp_path / str(processes)))
        assert status == 0, errors
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), abs=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused_with_both_numbers(shared, train, tmp_path):
    status, errors = train(shared, 1, "--out", str(tmp_path / "x"), "--optim.accumulation_steps", "3")
    assert status == 1
    assert errors.count("\n") == 1
    assert "batch_clips 8" in errors
    assert "accumulation_steps 3" in errors


def test_where_the_first_process_cannot_pack_the_others_end_with_one_line(shared, train, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "x.wav").write_bytes(b"not audio")
    data = dataclasses.replace(shared.data, corpus=str(tmp_path / "clips"), packed=str(tmp_path / "packed"))
    status, errors = train(dataclasses.replace(shared, data=data), 2, "--out", str(tmp_path / "run"))
    assert status == 1
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert any("could be decoded; the first: " in line for line in lines)
    assert set(lines) - {line for line in lines if "could be decoded" in line} <= {
        "error: the first process could not open the corpus or the run; its own line says why"
    }

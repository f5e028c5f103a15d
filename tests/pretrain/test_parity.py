"""One training step equals that of the authors' own training code, see golden/training_code/README.md.

The bounds of the losses are one unit in the last place of float32. Any mix of AVX2 and AVX-512 keeps them; a CPU that
has neither adds up in another order, with which a reconstruction was seen to differ by two (1.2e-7).
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processors import HAS_AMX
from safetensors import safe_open

from maeast_upstream import checkpoint
from maeast_upstream.checkpoint.published import to_published
from maeast_upstream.modules.positions import sinusoid
from pretrain.masking.rules import num_masked
from pretrain.recipe import Recipe
from pretrain.trainer import load_parent
from pretrain.training.build import build_objective

FILES = sorted((Path(__file__).parents[1] / "golden" / "training_code").glob("*.safetensors"))
TASK = {"feature_dim": 128, "sample_rate": 16_000, "feature_rate": 100}
LOSS_BOUNDS = {"reconstruction": 1.2e-7 if HAS_AMX else 6e-8, "classification": 1e-6, "loss": 1e-6}
"""That of the reconstruction is one step of float32, and two on an Intel Xeon with AMX."""
GRADIENT_BOUND = 1.3e-6
"""Relative; the largest difference seen is 3.5e-7, with three vector units and one or two threads."""
KEY_BIAS_BOUND = 1e-9
"""A softmax does not depend on the bias of the keys, so that its gradient is zero but for rounding."""
WITHOUT_GRADIENT = {"layer_norm.weight", "layer_norm.bias", "encoder_mask_emb"}


def write_checkpoint(folder, facts, weights):
    """A file as fairseq writes it, with the tables of positions that were left out."""
    model = facts["model"]
    for stack in ("enc", "dec"):
        table = sinusoid(model["max_token_length"], model[f"{stack}oder_embed_dim"])
        weights[f"{stack}_sine_pos_embed.pe"] = table[None]
    torch.save({"cfg": {"model": model, "task": TASK}, "model": weights}, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def step(request, tmp_path_factory):
    """Our step with the weights of a file, read as the checkpoint that a run begins with."""
    stored = {"weights": {}, "input": {}, "output": {}, "gradient_norm": {}}
    with safe_open(request.param, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is no mapping)
            part, _, key = name.partition("/")
            stored[part][key] = file.get_tensor(name)
        facts = json.loads(file.metadata()["facts"])
    trained = {name for name in stored["weights"] if not name.startswith("batch_norm")} - WITHOUT_GRADIENT
    path = write_checkpoint(tmp_path_factory.mktemp("published"), facts, stored["weights"])
    recipe = Recipe(init=str(path), normalisation="batch", model=checkpoint.read(path).config.model)
    parent = load_parent(recipe)
    objective = build_objective(recipe, parent.config.normalisation)
    objective.network.load_state_dict(parent.state)
    given = stored["input"]
    patches = objective.patches(given["waveforms_int16"].float() / 32_768)
    losses = objective(patches, given["visible"].long(), given["masked"].long())
    losses["loss"].backward()
    gradients = {name: p.grad for name, p in objective.network.named_parameters() if p.grad is not None}
    published = to_published(parent.config, {**parent.state, **gradients})["model"]
    return SimpleNamespace(
        facts=facts,
        masked=given["masked"],
        tokens=patches.shape[1],
        losses={name: value.item() for name, value in losses.items()},
        statistics={"running_mean": objective.normalise.mean[None], "running_var": objective.normalise.var[None]},
        expected_statistics=stored["output"],
        norms={name: published[name].double().norm().item() for name in trained},
        expected_norms={name: value.item() for name, value in stored["gradient_norm"].items()},
    )


@pytest.mark.parametrize("name", LOSS_BOUNDS)
def test_a_loss_is_that_of_the_training_code(step, name):
    assert abs(step.losses[name] - step.facts[name]) <= LOSS_BOUNDS[name]


def test_the_gradient_of_every_weight_has_the_norm_of_the_training_code(step):
    assert step.norms.keys() == step.expected_norms.keys()
    for name, expected in step.expected_norms.items():
        bound = KEY_BIAS_BOUND if name.endswith("k_proj.bias") else GRADIENT_BOUND * expected
        assert abs(step.norms[name] - expected) <= bound, name


def test_the_running_statistics_are_those_of_the_training_code(step):
    torch.testing.assert_close(step.statistics, step.expected_statistics, rtol=2e-7, atol=0.0)


def test_a_ratio_of_three_quarters_masks_as_many_tokens(step):
    assert step.tokens == step.facts["tokens"]
    assert step.masked.shape[1] == step.facts["masked"]
    if step.facts["mask_type"] != "retain_spans":  # of which 1.45 is a probability, not a ratio
        assert num_masked(step.tokens, step.facts["prob"]) == step.facts["masked"]

"""The loss against a moving average of the encoder."""

import dataclasses
from pathlib import Path

import pytest
import torch
from small import small_config

from maeast_upstream import checkpoint
from maeast_upstream.config import Normalisation
from maeast_upstream.model import MaeAst
from pretrain.config import LossConfig
from pretrain.latent import FOLLOWED, Latent
from pretrain.trainer import Trainer
from pretrain.training.build import build_objective
from pretrain.training.run_folder import states


def latent_recipe(recipe, **losses):
    return dataclasses.replace(recipe, losses=LossConfig(clip=1.0, **{"latent": 1.0, **losses}))


def normalised(rows):
    return (rows - rows.mean(1, keepdim=True)) / (rows.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def plain_targets(network, patches, masked, seen):
    """(n, D) targets of one clip: the two last layers' outputs on the tokens ``seen``, at the tokens ``masked``."""
    x = network.patch_embed(patches[seen]) + network.encoder_positions.table[seen]
    x = network.encoder.norm(x)[None]
    outputs = []
    for block in network.encoder.blocks:
        x = block(x)
        outputs.append(normalised(x[0]))
    rows = [seen.tolist().index(token) for token in masked.tolist()]
    return ((outputs[-1] + outputs[-2]) / 2)[rows]


@pytest.fixture
def case():
    """A network, patches of two clips, of which the second ends after 20 tokens, and their masked tokens."""
    torch.manual_seed(0)
    network = MaeAst(small_config(dropout=0.5)).eval()
    patches = torch.randn(2, 24, 256)
    masked = torch.stack([torch.randperm(24)[:9], torch.cat([torch.randperm(20)[:6], torch.tensor([23, 21, 20])])])
    padding = torch.zeros(2, 24, dtype=torch.bool)
    padding[1, 20:] = True
    return network, patches, masked, padding


@pytest.mark.parametrize("seen", ["masked", "all"])
def test_loss_and_gradients_equal_plain_steps_clip_by_clip(case, seen):
    network, patches, masked, padding = case
    latent = Latent(network, LossConfig(latent=1.0, latent_input=seen)).train()
    decoded = torch.randn(2, 9, 32, requires_grad=True)
    loss = latent(decoded, patches, masked, padding)
    loss.backward()
    copy = decoded.detach().clone().requires_grad_()
    plain = 0.0
    with torch.no_grad():
        tokens = [masked[0], masked[1, :6]]
        inputs = tokens if seen == "masked" else [torch.arange(24), torch.arange(20)]
        targets = [plain_targets(network, patches[i], tokens[i], inputs[i]) for i in range(2)]
    for i in range(2):
        predicted = copy[i, : len(tokens[i])] @ latent.head.weight.detach().T + latent.head.bias.detach()
        plain = plain + (predicted - targets[i]).square().mean() / 2
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(decoded.grad, copy.grad, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in latent.average.parameters())


def test_a_default_target_is_the_mean_over_two_thirds_of_the_layers():
    for depth, layers in ((12, range(5, 13)), (6, range(3, 7)), (1, range(1, 2))):
        assert Latent(MaeAst(small_config(depth=depth)), LossConfig(latent=1.0)).layers == layers
    assert Latent(MaeAst(small_config()), LossConfig(latent=1.0, latent_layers=1)).layers == range(3, 4)


def test_the_decay_goes_linearly_to_its_end():
    settings = {"latent": 1.0, "latent_decay": 0.9, "latent_end_decay": 0.99, "latent_decay_steps": 10}
    latent = Latent(MaeAst(small_config()), LossConfig(**settings))
    assert [latent.decay(step) for step in (0, 5, 10, 11)] == pytest.approx([0.9, 0.945, 0.99, 0.99])
    assert Latent(MaeAst(small_config()), LossConfig(**{**settings, "latent_decay_steps": 0})).decay(0) == 0.99


@pytest.mark.slow
def test_a_run_averages_the_weights_of_every_update(recipe):
    recipe = latent_recipe(recipe, latent_decay=0.5, latent_end_decay=0.8, latent_decay_steps=3)
    trainer = Trainer(recipe)
    network, average = trainer.objective.network, trainer.objective.latent.average
    expected = {name: value.detach().clone() for name, value in network.patch_embed.named_parameters()}
    update = trainer._update

    def follow(batches):
        losses = update(batches)
        for name, value in network.patch_embed.named_parameters():
            decay = (0.5, 0.6, 0.7, 0.8, 0.8, 0.8)[trainer.step]
            expected[name] = decay * expected[name] + (1 - decay) * value.detach()
        return losses

    trainer._update = follow
    trainer.train()
    for name, value in average["patch_embed"].named_parameters():
        torch.testing.assert_close(value, expected[name])
        assert not torch.equal(value, dict(network.patch_embed.named_parameters())[name])
    saved = torch.load(states(trainer.run)[-1], weights_only=True)["objective"]
    assert torch.equal(saved["latent.average.patch_embed.weight"], average["patch_embed"].weight)
    assert not any("latent" in name for name in checkpoint.read(trainer.run).state), "an encoder holds no average"


def test_a_weight_of_0_leaves_no_average_and_the_same_random_weights(recipe):
    def weights(**losses):
        torch.manual_seed(0)
        return build_objective(latent_recipe(recipe, **losses), Normalisation()).state_dict()

    without, with_average = weights(latent=0.0), weights()
    assert not any("latent" in name for name in without)
    assert all(torch.equal(value, with_average[name]) for name, value in without.items())


def test_the_average_has_no_dropout_while_the_network_trains(case):
    network, patches, masked, _ = case
    latent = Latent(network, LossConfig(latent=1.0)).train()
    assert latent.training
    assert torch.equal(latent.targets(patches, masked), latent.targets(patches, masked))


@pytest.mark.slow
def test_a_run_with_a_parent_begins_to_average_at_the_parents_weights(recipe, tmp_path):
    parent = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, steps=4))
    Trainer(parent).train()
    child = dataclasses.replace(latent_recipe(recipe), init=recipe.out, out=str(tmp_path / "child"))
    trainer = Trainer(child)
    for name in FOLLOWED:
        averages = trainer.objective.latent.average[name].state_dict()
        for key, value in getattr(trainer.objective.network, name).state_dict().items():
            assert torch.equal(averages[key], value)
    begun_with = checkpoint.read(Path(recipe.out)).state["patch_embed.weight"]
    assert torch.equal(trainer.objective.network.patch_embed.weight, begun_with)
    trainer.close()

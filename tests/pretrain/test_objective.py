import dataclasses
from pathlib import Path

import pytest
import torch

from maeast_upstream import load_model
from maeast_upstream.config import Normalisation
from pretrain.config import LossConfig, MaskConfig, OptimConfig
from pretrain.data.batches import BatchSharding
from pretrain.data.corpus import open_training
from pretrain.losses import classification_loss, reconstruction_loss
from pretrain.masking import rules
from pretrain.trainer import Trainer
from pretrain.training.build import build_objective, build_sampler, build_updater
from pretrain.training.distributed import Parallel
from pretrain.training.optimizer import make_optimizer
from pretrain.training.run_folder import states


def prepared(recipe, rows=4):
    torch.manual_seed(0)
    objective = build_objective(recipe, Normalisation(mean=-5.0, std=4.0))
    patches = objective.patches(0.1 * torch.randn(rows, 16000))
    return objective, patches, draw(recipe, patches)


def draw(recipe, patches):
    """All visible and masked tokens of each row."""
    return build_sampler(recipe).draw(*patches.shape[:2], torch.Generator().manual_seed(0))[:2]


def first_batch(recipe, objective):
    """The first micro-batch of a run, its patches and its masks."""
    batch = open_training(recipe.data, recipe.model, recipe.losses.crops, recipe.seed, BatchSharding())[0]
    prepare = build_updater(recipe, objective, Parallel("cpu", "ddp")).prepare
    return batch, *prepare(batch, (0, 0))


@pytest.mark.parametrize("name", ["reconstruction", "classification", "clip"])
def test_a_weight_of_0_is_not_computed(recipe, name, monkeypatch):
    weights = {"reconstruction": 0.0, "classification": 0.0, "clip": 0.0, name: 2.0}
    for other in set(weights) - {name}:
        monkeypatch.setattr(f"pretrain.objective.{other}_loss", None)  # would raise if it were called
    objective, patches, masks = prepared(dataclasses.replace(recipe, losses=LossConfig(**weights)))
    losses = objective(patches, *masks)
    assert set(losses) == {"loss", name}
    torch.testing.assert_close(losses["loss"], 2 * losses[name])
    losses["loss"].backward()


def test_without_a_clip_loss_there_is_no_head_and_one_view(recipe):
    plain = dataclasses.replace(recipe, losses=LossConfig())
    assert plain.losses.crops == 1
    assert recipe.losses.crops == 2
    assert not any("clip_head" in name for name in prepared(plain)[0].state_dict())


def test_patches_are_normalised_with_the_fixed_statistics(recipe):
    objective, patches, _ = prepared(recipe)
    other = build_objective(recipe, Normalisation(mean=-5.0, std=8.0))
    other.load_state_dict(objective.state_dict())
    torch.manual_seed(1)
    waveforms = 0.1 * torch.randn(2, 16000)
    torch.testing.assert_close(objective.patches(waveforms), 2 * other.patches(waveforms))
    assert patches.shape == (4, 6 * 8, 256)
    assert not patches.requires_grad


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_masks_have_the_published_count_and_every_row_its_own(recipe, share):
    recipe = dataclasses.replace(recipe, masking=MaskConfig(ratio=0.75, chunk_share=share))
    _, patches, (visible, masked) = prepared(recipe)
    assert visible.shape == (4, 12)
    assert masked.shape == (4, 36)
    assert len({tuple(row) for row in masked.tolist()}) == 4
    assert patches.shape[1] == 48


LOSSES = {
    "both": {},
    "reconstruction": {"classification": 0.0},
    "classification": {"reconstruction": 0.0},
    "clip": {"reconstruction": 0.0, "classification": 0.0, "clip": 1.0},
    "latent": {"reconstruction": 0.0, "classification": 0.0, "latent": 1.0},
    "all": {"clip": 1.0, "latent": 1.0, "clip_views": "masks", "masked_share": 0.5, "normalize_targets": True},
}


def changed(recipe, objective="mae_ast", model=None, **losses):
    shape = {"decoder_depth": 0} if objective != "mae_ast" else {}
    model = dataclasses.replace(recipe.model, layerdrop=0.0, **shape, **(model or {}))
    return dataclasses.replace(recipe, objective=objective, model=model, losses=LossConfig(**losses))


@pytest.mark.parametrize("attention", ["self", "cross"])
@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_gradients_reach_what_is_trained_and_the_rest_is_frozen(recipe, losses, attention):
    recipe = changed(recipe, model={"decoder_attention": attention}, **losses)
    objective, patches, masks = prepared(recipe)
    objective(patches, *masks)["loss"].backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in objective.named_parameters() if p.requires_grad}
    assert "network.encoder_mask" not in reached, "only SSAST's full-length pass has a use for it"
    assert any("decoder.blocks" in name for name in reached) == (losses is not LOSSES["clip"])
    optimised = {id(p) for group in make_optimizer(objective, recipe.optim).param_groups for p in group["params"]}
    assert optimised == {id(p) for p in objective.parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["reconstruction", "classification"])
def test_the_head_of_a_weight_of_0_is_not_computed(recipe, name):
    objective, patches, masks = prepared(changed(recipe, **LOSSES[name]))
    other = "classification" if name == "reconstruction" else "reconstruction"
    setattr(objective.network, f"{other}_head", None)  # would raise if it were called
    objective(patches, *masks)["loss"].backward()


def test_without_a_loss_on_patches_there_is_no_decoder_pass(recipe):
    objective, patches, masks = prepared(changed(recipe, **LOSSES["clip"]))
    for part in ("decoder", "decoder_embed", "reconstruction_head", "classification_head"):
        setattr(objective.network, part, None)
    assert objective(patches, *masks)["loss"].isfinite()


def test_the_views_of_a_clip_loss_may_be_two_visible_sets_without_a_common_token(recipe):
    recipe = changed(recipe, clip=1.0, clip_views="masks")
    assert (recipe.losses.crops, recipe.passes) == (1, 2)
    objective = prepared(recipe)[0]
    batch, patches, (visible, masked, _) = first_batch(recipe, objective)
    clips = len(patches) // 2
    assert len(batch.waveforms) == clips == recipe.data.batch_clips
    assert torch.equal(patches[:clips], patches[clips:])
    for one, other in zip(visible[:clips].tolist(), visible[clips:].tolist(), strict=True):
        assert not set(one) & set(other)
    assert masked.shape[1] == rules.num_masked(patches.shape[1], 0.75)
    assert set(objective(patches, visible, masked)) == {"loss", "reconstruction", "classification", "clip"}


def test_a_share_of_the_masked_tokens_is_decoded_and_predicted(recipe):
    recipe = changed(recipe, masked_share=1 / 3)
    objective, *_ = prepared(recipe)
    _, patches, (visible, predicted, _) = first_batch(recipe, objective)
    assert predicted.shape == (4, 6)
    seen = []
    objective.network.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    objective(patches, visible, predicted)
    assert seen == [12], "6 visible tokens and 6 of the 18 masked ones"


def test_normalize_targets_and_temperature_are_used(recipe):
    def losses(**change):
        objective, patches, masks = prepared(changed(recipe, **change))
        return objective.eval()(patches, *masks)

    plain, own, cold = losses(), losses(normalize_targets=True), losses(temperature=0.1)
    assert own["reconstruction"] > 1.5 * plain["reconstruction"], "patches have a variance below 1 / 4"
    assert cold["classification"] != plain["classification"]
    assert cold["reconstruction"] == plain["reconstruction"]


@pytest.mark.parametrize("name", ["mae_ast", "ssast", "ssast_two_pass"])
def test_the_classification_may_run_over_the_predictions(recipe, name):
    def losses(over):
        changed_recipe = changed(recipe, name, classification_over=over)
        objective = prepared(changed_recipe)[0].eval()
        _, patches, (visible, masked, _) = first_batch(changed_recipe, objective)
        return objective(patches, visible, masked)

    one, other = losses("targets"), losses("predictions")
    assert one["reconstruction"] == other["reconstruction"]
    assert one["classification"] != other["classification"]


def test_ssast_equals_the_plain_steps(recipe):
    recipe = changed(recipe, "ssast")
    objective, patches, (visible, masked) = prepared(recipe)
    losses = objective.eval()(patches, visible, masked)
    network = objective.network
    tokens = network.patch_embed(patches)
    for row in range(4):
        tokens[row, masked[row]] = network.encoder_mask
    encoded = network.encoder(tokens + network.encoder_positions.table[:48])
    hidden = torch.stack([encoded[row, masked[row]] for row in range(4)])
    targets = torch.stack([patches[row, masked[row]] for row in range(4)])

    def head(layers):
        return layers[2](torch.relu(layers[0](hidden)))

    expected = reconstruction_loss(head(objective.ssast["reconstruction"]), targets)
    torch.testing.assert_close(losses["reconstruction"], expected)
    expected = classification_loss(head(objective.ssast["classification"]), targets)
    torch.testing.assert_close(losses["classification"], expected)
    losses["loss"].backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in objective.named_parameters() if p.requires_grad}
    assert not any("decoder" in name for name in reached)
    assert "network.encoder_mask" in reached


def test_ssast_in_two_passes_has_a_mask_for_each_loss(recipe):
    """The first rows of the batch are the reconstruction's pass, the second the classification's."""
    both = changed(recipe, "ssast_two_pass")
    objective = prepared(both)[0].eval()
    batch, patches, (visible, masked, _) = first_batch(both, objective)
    assert len(patches) == 2 * len(batch.waveforms)
    half = len(patches) // 2
    assert not torch.equal(masked[:half], masked[half:])
    losses = objective(patches, visible, masked)
    one = build_objective(changed(recipe, "ssast"), Normalisation()).eval()
    one.load_state_dict(objective.state_dict())
    first, second = (
        one(patches[:half], visible[:half], masked[:half]),
        one(patches[half:], visible[half:], masked[half:]),
    )
    torch.testing.assert_close(losses["reconstruction"], first["reconstruction"])
    torch.testing.assert_close(losses["classification"], second["classification"])


@pytest.mark.parametrize("name", ["reconstruction", "classification"])
def test_ssast_has_the_heads_that_it_computes(recipe, name):
    objective, patches, masks = prepared(changed(recipe, "ssast", **LOSSES[name]))
    heads = {part.split(".")[1] for part, _ in objective.named_parameters() if part.startswith("ssast.")}
    assert heads == {name}
    assert set(objective(patches, *masks)) == {"loss", name}


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ssast", "ssast_two_pass"])
@pytest.mark.parametrize("short_clips", ["repeat", "pad"])
def test_a_run_of_ssast_is_an_encoder_without_a_decoder(recipe, objective, short_clips):
    recipe = changed(recipe, objective)
    data = dataclasses.replace(recipe.data, short_clips=short_clips)
    trainer = Trainer(dataclasses.replace(recipe, data=data, optim=OptimConfig(steps=3, warmup_steps=1, decay_steps=1)))
    before = trainer.objective.network.encoder_mask.clone()
    assert trainer.train()
    encoder = load_model(recipe.out)
    assert encoder.config.model.decoder_depth == 0
    assert encoder.embed([torch.zeros(16_000)]).isfinite().all()
    assert not torch.equal(encoder.network.encoder_mask, before)
    assert trainer.updater.optimizer.param_groups[0]["params"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"losses": {"clip": 1.0, "clip_views": "masks"}},
        {"losses": {"latent": 1.0, "clip": 1.0}},
        {"model": {"decoder_attention": "cross"}, "losses": {"masked_share": 0.5, "temperature": 0.5}},
        {"masking": {"span_share": 0.25, "inverse_share": 0.25, "chunk_official_share": 0.25}},
        {"model": {"patch_frames": 2, "patch_mels": 128}, "masking": {"spans_official_probability": 1.45}},
    ],
    ids=["views", "latent", "cross", "masks", "spans"],
)
def test_a_run_resumes_with_every_choice(recipe, tmp_path, settings):
    sections = {"losses": LossConfig, "masking": MaskConfig}
    for name, values in settings.items():
        section = sections[name](**values) if name in sections else dataclasses.replace(recipe.model, **values)
        recipe = dataclasses.replace(recipe, **{name: section})
    Trainer(recipe).train()
    parts = dataclasses.replace(recipe, out=str(tmp_path / "parts"))
    Trainer(dataclasses.replace(parts, max_minutes=1e-9)).train()
    Trainer(parts).train()
    runs = Path(recipe.out), Path(parts.out)
    one, other = (torch.load(states(run)[-1], weights_only=True)["objective"] for run in runs)
    assert all(torch.equal(value, other[name]) for name, value in one.items())

import dataclasses

import pytest
import torch

from maeast_upstream.config import Normalisation
from pretrain.config import LossConfig, MaskConfig
from pretrain.objective import Objective


def prepared(recipe, rows=4):
    torch.manual_seed(0)
    objective = Objective(recipe, Normalisation(mean=-5.0, std=4.0))
    patches = objective.patches(0.1 * torch.randn(rows, 16000))
    return (
        objective,
        patches,
        objective.draw_masks(patches, torch.Generator().manual_seed(0)),
    )


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
    assert plain.losses.views == 1
    assert recipe.losses.views == 2
    assert not any("clip_head" in name for name in prepared(plain)[0].state_dict())


def test_patches_are_normalised_with_the_fixed_statistics(recipe):
    objective, patches, _ = prepared(recipe)
    other = Objective(recipe, Normalisation(mean=-5.0, std=8.0))
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


def test_gradients_reach_every_weight_that_pretraining_uses(recipe):
    objective, patches, masks = prepared(recipe)
    objective.eval()(patches, *masks)["loss"].backward()
    without = {name for name, p in objective.named_parameters() if p.grad is None}
    assert without == {"network.encoder_mask"}, "only SSAST's full-length pass has a use for it"

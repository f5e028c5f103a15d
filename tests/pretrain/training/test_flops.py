"""The closed formula against torch's own counter, which runs the objective."""

import pytest
import torch
from small import small_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maeast_upstream.config import Normalisation
from pretrain.config import LossConfig, MaskConfig
from pretrain.masking.sampler import BatchRows
from pretrain.recipe import Recipe
from pretrain.training.build import build_flops, build_objective, build_sampler
from pretrain.training.flops import FORWARD_AND_BACKWARD, peak_flops

SAMPLES, TOKENS = 16 * 16 * 160 + 240, 128
RECIPES = {
    "default": {},
    "narrow decoder": {"model": {"decoder_dim": 16, "decoder_depth": 3}},
    "cross-attention": {"model": {"decoder_attention": "cross", "decoder_depth": 2}},
    "share": {"losses": LossConfig(masked_share=0.4)},
    "one loss": {"losses": LossConfig(classification=0.0)},
    "views": {"losses": LossConfig(clip=1.0, clip_views="masks"), "masking": MaskConfig(ratio=0.8)},
    "latent": {"losses": LossConfig(latent=1.0, latent_input="all", masked_share=0.4)},
    "latent views": {"losses": LossConfig(latent=1.0, clip=1.0, clip_views="masks", classification=0.0)},
    "ssast": {"objective": "ssast", "model": {"decoder_depth": 0}},
    "two passes": {"objective": "ssast_two_pass", "model": {"decoder_depth": 0}},
}


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_the_formula_counts_what_torch_counts(settings):
    model = small_config(**settings.get("model", {}))
    recipe = Recipe(precision="fp32", **{**settings, "model": model})
    crops = 6
    rows = BatchRows(clips=crops, first=0, total=crops, views=recipe.passes)
    masks = build_sampler(recipe).sample(rows, TOKENS, (0,), torch.device("cpu"))
    # plain products of fake tensors, because the counter does not know the fast kernels of a CPU
    objective = build_objective(recipe, Normalisation()).eval()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, sdpa_kernel(SDPBackend.MATH):
        patches = torch.empty(crops * recipe.passes, TOKENS, model.patch_dim)
        with FlopCounterMode(display=False) as counter:
            objective(patches, *masks)
        with FlopCounterMode(display=False) as forward_only:
            if objective.latent is not None:
                objective.latent.targets(patches, masks.masked)
    targets = forward_only.get_total_flops()
    assert (targets > 0) == (recipe.losses.latent > 0)
    expected = FORWARD_AND_BACKWARD * (counter.get_total_flops() - targets) + targets
    assert build_flops(recipe)(crops, SAMPLES) == pytest.approx(expected, rel=0.01)


def test_operations_are_proportional_to_crops():
    flops = build_flops(Recipe(model=small_config()))
    assert flops(10, SAMPLES) == 10 * flops(1, SAMPLES)


def test_the_peak_rate_of_a_cpu_is_more_than_nothing():
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e9

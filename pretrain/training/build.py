"""Builds the parts of a run from its recipe. Each part gets only the sections that it needs."""

from maeast_upstream.config import Normalisation
from pretrain.masking.sampler import MaskSampler
from pretrain.objective import Normalizer, Objective, TargetSizes
from pretrain.recipe import Recipe
from pretrain.targets import Targets
from pretrain.training.distributed import Parallel
from pretrain.training.flops import StepFlops
from pretrain.training.step import Preparation, Updater


def build_objective(recipe: Recipe, statistics: Normalisation, sizes: TargetSizes | None = None) -> Objective:
    """The network with its losses, with random weights from torch's global generator; ``sizes`` are of its targets."""
    normalizer = Normalizer(recipe.normalisation, statistics)
    return Objective(recipe.model, recipe.losses, recipe.frontend, normalizer, recipe.objective, sizes)


def build_sampler(recipe: Recipe) -> MaskSampler:
    """The sampler of the recipe's masks."""
    return MaskSampler(recipe.masking, recipe.losses, recipe.model)


def build_updater(recipe: Recipe, objective: Objective, parallel: Parallel, targets: Targets | None = None) -> Updater:
    """The updater of the objective's weights, with what prepares its batches and finds their targets."""
    prepare = Preparation(
        objective, build_sampler(recipe), parallel.device, recipe.passes, recipe.data.padded, targets or Targets()
    )
    return Updater(prepare, parallel, recipe.optim, seed=recipe.seed, precision=recipe.precision)


def build_flops(recipe: Recipe) -> StepFlops:
    """The counter of the operations of a step."""
    return StepFlops(recipe.model, recipe.losses, recipe.masking.expected_ratio, recipe.objective)

"""Heads of folds: each train clip is classified by a head that was fitted on other train clips.

A head that was fitted on all of a few hundred clips classifies them nearly without loss, so that an encoder could learn
nothing from it; the loss of a clip that a head has not seen is that of new clips. Source of the idea, to train an
encoder through linear classifiers that were fitted on other clips: Lee et al., arXiv 1904.03758.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maeast_upstream.classification.logistic import fit_path
from maeast_upstream.classification.standardize import principal_axes


@dataclass(frozen=True)
class FoldHeads:
    """The heads of an epoch."""

    folds: Tensor
    """(n,) int64, which head classifies each train clip."""
    weights: list[Tensor]
    """(classes, E) for each head."""
    biases: list[Tensor]
    """(classes,) for each head."""

    def __call__(self, vectors: Tensor, rows: list[int]) -> Tensor:
        """Classify (B, E) standardized vectors of the train clips ``rows``: (B, classes) logits."""
        folds = self.folds[rows].tolist()
        return torch.stack(
            [F.linear(each, self.weights[fold], self.biases[fold]) for each, fold in zip(vectors, folds, strict=True)]
        )


def draw_folds(classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw a fold for each clip, so that the clips of a class are spread evenly.

    Args:
        classes: (n,) int64.
        count: Number of folds.
        generator: Source of the random numbers.

    Returns:
        (n,) int64 below ``count``; ``count`` itself for a clip that is alone in its class.
    """
    folds = torch.full_like(classes, count)
    for number in range(int(classes.max()) + 1):
        rows = (classes == number).nonzero()[:, 0]
        first = torch.randint(count, (1,), generator=generator)
        if len(rows) > 1:
            folds[rows] = (torch.randperm(len(rows), generator=generator) + first) % count
    return folds


def fit_fold_heads(x: np.ndarray, classes: Tensor, folds: Tensor, c: float, device: torch.device) -> FoldHeads:
    """Fit a head for each fold on the clips of the others. Clips that are alone in their class are in no fold.

    Args:
        x: (n, E) standardized vectors of the train clips.
        classes: (n,) int64.
        folds: See `draw_folds`.
        c: Inverse strength of the penalty, as the probe has it.
        device: Where the heads are.
    """
    axes, variances = principal_axes(x)
    rotated, targets = x @ axes, F.one_hot(classes).double().numpy()
    alone = np.bincount(classes.numpy())[classes.numpy()] == 1
    weights, biases = [], []
    for fold in range(int(folds.max()) + 1):
        others = (folds.numpy() != fold) | alone
        ones = np.ones((int(others.sum()), 1))
        (head,) = fit_path(rotated[others], targets[others], ones, variances, multi_label=False, grid=(c,))
        weights.append(torch.from_numpy((head.weight @ axes.T).astype(np.float32)).to(device))
        biases.append(torch.from_numpy(head.bias.astype(np.float32)).to(device))
    return FoldHeads(folds, weights, biases)

"""The pretraining losses.

Sources: arXiv 2203.16691, section 2.4; the clip loss: SimCLR, arXiv 2002.05709; the loss of vectors of a moving
average: data2vec, arXiv 2202.03555; the teacher loss: S-SONDO, arXiv 2604.24933; that of clusters: HuBERT, arXiv
2106.07447.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
"""Added to the variance of a patch, which is zero in silence."""


def reconstruction_loss(predicted: Tensor, targets: Tensor, padding: Tensor | None = None) -> Tensor:
    """Mean squared error over the values of the masked patches.

    Args:
        predicted: (B, masked, P) predicted patches.
        targets: (B, masked, P) true patches.
        padding: (B, masked) bool, True where a clip has no such patch. The loss is then the mean over the clips of
            each clip's own mean.
    """
    if padding is None:
        return F.mse_loss(predicted.float(), targets.float())
    return mean_over_clips((predicted.float() - targets.float()).square().mean(dim=2), padding)


def mean_over_clips(values: Tensor, padding: Tensor) -> Tensor:
    """(B, n) values -> the mean over the clips of each clip's mean over what is not padding."""
    valid = (~padding).sum(dim=1).clamp(min=1)
    return (values.masked_fill(padding, 0.0).sum(dim=1) / valid).mean()


def normalize_patches(patches: Tensor) -> Tensor:
    """(..., P) patches, each minus its mean and divided by its standard deviation.

    Source: MAE, arXiv 2111.06377, section 4.
    """
    patches = patches.float()
    return (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + EPS).sqrt()


def classification_loss(
    predicted: Tensor,
    targets: Tensor,
    padding: Tensor | None = None,
    temperature: float = 1.0,
    over: Literal["targets", "predictions"] = "targets",
) -> Tensor:
    """InfoNCE within each clip: match each prediction with the right one among the clip's masked patches.

    SSAST's code (mpc in ast_models.py) matches each patch with a prediction instead, in spite of its equation.

    Args:
        predicted: (B, masked, P) vectors of the classification head.
        targets: (B, masked, P) true patches; logits are the plain dot products.
        padding: (B, masked) bool, True where a clip has no such patch, which is then neither query nor candidate.
        temperature: divides the dot products.
        over: what the softmax runs over, the candidates.
    """
    if over == "predictions":
        predicted, targets = targets, predicted
    with torch.autocast(predicted.device.type, enabled=False):
        logits = predicted.float() @ (targets.float() / temperature).transpose(1, 2)  # (B, masked, masked)
    labels = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    if padding is None:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    logits = logits.masked_fill(padding[:, None, :], torch.finfo(logits.dtype).min)
    values = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    return mean_over_clips(values, padding)


def latent_loss(predicted: Tensor, targets: Tensor, padding: Tensor | None = None) -> Tensor:
    """Mean squared error over the values of the masked tokens' vectors.

    Args:
        predicted: (B, masked, D) vectors of the head.
        targets: (B, masked, D) vectors of the moving average, see `pretrain.latent`.
        padding: (B, masked) bool, as in `reconstruction_loss`.
    """
    return reconstruction_loss(predicted, targets, padding)


def cluster_loss(logits: Tensor, targets: Tensor, padding: Tensor | None = None) -> Tensor:
    """Cross-entropy of the masked tokens' clusters: the mean over the clips of each clip's own mean.

    Args:
        logits: (B, masked, clusters) logits.
        targets: (B, masked) int64 clusters, -1 where a token has none. A clip without any counts as 0, so that the
            processes that share a batch compute what one does.
        padding: (B, masked) bool, True where a clip has no such token.
    """
    absent = targets < 0
    if padding is not None:
        absent = absent | padding
    labels = targets.masked_fill(absent, 0).flatten()
    values = F.cross_entropy(logits.float().flatten(0, 1), labels, reduction="none").view_as(targets)
    return mean_over_clips(values, absent)


def clip_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of each clip; all other views of the batch are negatives.

    Args:
        first: (B, C) vectors of one view of each clip.
        second: (B, C) vectors of the other view, in the same order.
        temperature: divides the cosines.
    """
    with torch.autocast(first.device.type, enabled=False):
        views = F.normalize(torch.cat([first, second]).float(), dim=1)
        logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    other = (torch.arange(len(views), device=views.device) + len(first)) % len(
        views
    )  # torch cannot compile a roll here
    return F.cross_entropy(logits, other)


def teacher_loss(predicted: Tensor, vectors: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cosine distance, 1 - cos, between predicted vectors and those of a teacher.

    Args:
        predicted: (B, E) predicted vectors.
        vectors: (B, E) vectors of the teacher; a row with a value that is not finite is missing.
        weights: (B,) of the rows, see `mean_of_present`.
    """
    present = vectors.isfinite().all(dim=1)
    with torch.autocast(predicted.device.type, enabled=False):
        known = vectors.float().masked_fill(~present[:, None], 0.0)
        distance = 1 - F.cosine_similarity(predicted.float(), known, dim=1)
    return mean_of_present(distance, present, weights)


def label_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the labels of clips.

    Args:
        logits: (B, classes).
        labels: (B,) int64 classes, -1 where missing; or, where a clip may have several, (B, classes) float 0 or 1, and
            NaN where missing. The cross-entropies of the classes, each against its absence, are then averaged.
        weights: (B,) of the rows, see `mean_of_present`.
        smoothing: share of a label's probability that is spread over its classes, or over presence and absence.
    """
    with torch.autocast(logits.device.type, enabled=False):
        if labels.is_floating_point():
            present = labels.isfinite().all(dim=1)
            smooth = labels.masked_fill(~present[:, None], 0.0) * (1 - smoothing) + smoothing / 2
            values = F.binary_cross_entropy_with_logits(logits.float(), smooth, reduction="none").mean(dim=1)
        else:
            present = labels >= 0
            known = labels.clamp(min=0)
            values = F.cross_entropy(logits.float(), known, reduction="none", label_smoothing=smoothing)
    return mean_of_present(values, present, weights)


def mean_of_present(values: Tensor, present: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean of the values that are present, 0 without any.

    Args:
        values: (B,) finite.
        present: (B,) bool.
        weights: (B,) so that the mean over all micro-batches of an update is that of what is present in all of them,
            see `pretrain.targets.rows`; None for the mean of these values.
    """
    if weights is None:
        weights = present / present.float().mean().clamp(min=1 / max(1, len(present)))
    return (values * weights * present).mean()

"""Makes the classifiers that ``maeast probe`` and ``maeast finetune`` save, for ``maeast predict``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maeast_upstream.classification.calibration import best_thresholds, fit_temperature
from maeast_upstream.classification.classifier import Classifier, probabilities_of
from maeast_upstream.classification.folder import CheckpointSource
from maeast_upstream.classification.standardize import Standardization
from maeast_upstream.readout import Readout
from maeast_upstream.version import __version__


@dataclass(frozen=True)
class Head:
    """A linear classifier of standardized vectors."""

    weight: np.ndarray
    """(K, E)."""
    bias: np.ndarray
    """(K,)."""
    standardization: Standardization
    """Of its vectors."""

    @property
    def folded(self) -> dict[str, np.ndarray]:
        """``weight`` (K, E) and ``bias`` (K,), float32, of vectors that are neither standardized nor clipped."""
        weight = self.weight / self.standardization.scale
        bias = self.bias - weight @ self.standardization.mean
        return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def calibrated(
    head: Head,
    labels: Sequence[str],
    *,
    valid: tuple[np.ndarray, np.ndarray],
    source: CheckpointSource,
    readout: Readout,
    about: Mapping[str, Any],
) -> Classifier:
    """Return a classifier whose temperature and thresholds fit the valid clips.

    Args:
        head: What was trained.
        labels: K labels, in its order.
        valid: (m, K) logits of the valid clips, and their (m,) numbers of the labels.
        source: The encoder.
        readout: How a clip's features become a vector.
        about: Counts and scores, as plain data.
    """
    logits, numbers = valid
    targets = np.eye(len(labels))[numbers]
    temperature = fit_temperature(logits, targets, multi_label=False)
    return Classifier(
        labels=tuple(labels),
        checkpoint=source.checkpoint,
        fingerprint=source.fingerprint,
        readout=readout,
        mean=head.standardization.mean,
        scale=head.standardization.scale,
        weight=head.weight,
        bias=head.bias,
        temperature=temperature,
        thresholds=best_thresholds(probabilities_of(logits / temperature, multi_label=False), targets),
        about={**about, "versions": {"maeast": __version__}},
    )

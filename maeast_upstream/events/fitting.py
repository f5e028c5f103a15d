"""Fits the classifier of time steps: one logistic regression per label, on each step and its neighbours.

The neighbours matter: with those 80 and 160 ms before and behind, the onset F-measure of docs/results/events.md rises
by several points. The strength of the penalty and the smoothing are those with the best onset F-measure on valid, or
by cross-validation without one.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maeast_upstream.classification.classifier import probabilities_of
from maeast_upstream.classification.logistic import Linear, fit_path
from maeast_upstream.events.collecting import LabelledSteps
from maeast_upstream.events.projection import Projection, StepBlocks
from maeast_upstream.events.recordings import step_targets
from maeast_upstream.events.search import Judged, SmoothingSearch, few_smoothings, smoothings
from maeast_upstream.events.smoothing import Smoothing
from maeast_upstream.messages import install_extra

C_GRID = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Inverse strengths of the penalty, which multiply the sum of the steps' losses. They are small, because neighbouring
steps say much the same: each counts as a fraction of a clip."""
CONTEXT_MS = (-160.0, -80.0, 0.0, 80.0, 160.0)
"""The neighbours of a time step that its label depends on."""
MAX_TRAIN_STEPS = 100_000
"""Time steps that are fitted on, 384 MB: an hour. Of more, this many are drawn, at most `MAX_ACTIVE_SHARE` of them with
a label, and each counts for those that were left out."""
MAX_ACTIVE_SHARE = 0.75
FOLDS = 4
"""Parts of cross-validation."""


@dataclass(frozen=True)
class FittedSteps:
    """The classifier of time steps, its smoothing, and what it says of recordings that it was not fitted on."""

    projection: Projection
    offsets: tuple[int, ...]
    weight: np.ndarray
    """(K, O * R) of projected steps."""
    bias: np.ndarray
    """(K,)"""
    c: float
    smoothing: Smoothing
    chosen_on: str
    """valid or cross-validation."""
    held_out: list[tuple[LabelledSteps, np.ndarray]]
    """The recordings, or parts of them, that chose the penalty and the smoothing, with their (T, K) probabilities."""


def fit_steps(recordings: Sequence[LabelledSteps], labels: Sequence[str], hop_ms: float, seed: int = 0) -> FittedSteps:
    """Fit on train, and choose on valid, or without valid by cross-validation in `FOLDS` parts.

    Args:
        recordings: Those of test are not looked at.
        labels: All labels.
        hop_ms: Distance of time steps.
        seed: Of the draw of time steps.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"maeast fit needs scikit-learn: {install_extra('events')}") from error
    train, valid = ([each for each in recordings if each.split == split] for split in ("train", "valid"))
    offsets = tuple(dict.fromkeys(round(ms / hop_ms) for ms in CONTEXT_MS))
    with threadpool_limits(1):
        if valid:
            fit = StepFit(train, labels, offsets, seed)
            paths = fit.path(np.ones(len(train), bool), C_GRID)
            held_out = [(each, fit.probabilities(each.steps, paths)) for each in valid]
        else:
            train = parts_of(train)
            folds = folds_of(train)
            fit = StepFit(train, labels, offsets, seed)
            held_out = []
            for fold in range(FOLDS):
                paths = fit.path(folds != fold, C_GRID)
                parts = [each for each, number in zip(train, folds, strict=True) if number == fold]
                held_out += [(each, fit.probabilities(each.steps, paths)) for each in parts]
        best, smoothing = choose(held_out, labels, hop_ms)
        linear = paths[best] if valid else fit.path(np.ones(len(train), bool), C_GRID[: best + 1])[-1]
    chosen = [(each, probabilities[best]) for each, probabilities in held_out]
    where = "valid" if valid else "cross-validation"
    return FittedSteps(fit.projection, offsets, linear.weight, linear.bias, C_GRID[best], smoothing, where, chosen)


def choose(
    held_out: Sequence[tuple[LabelledSteps, np.ndarray]], labels: Sequence[str], hop_ms: float
) -> tuple[int, Smoothing]:
    """Return the number of the best strength in `C_GRID`, in a tie the smallest, and the best smoothing with it."""

    def search(number: int) -> SmoothingSearch:
        judged = [Judged(p[number], each.times_ms, each.events, each.duration_ms) for each, p in held_out]
        return SmoothingSearch(judged, labels, hop_ms)

    scores = [search(number).best(few_smoothings())[1].f_measure for number in range(len(C_GRID))]
    best = int(np.argmax(scores))
    return best, search(best).best(smoothings(hop_ms))[0]


class StepFit:
    """The projected time steps of train, from which any part can be fitted."""

    def __init__(
        self, train: Sequence[LabelledSteps], labels: Sequence[str], offsets: tuple[int, ...], seed: int
    ) -> None:
        """Draw the steps, and measure and project them; the arguments are those of `fit_steps`."""
        targets = [step_targets(each.events, each.times_ms, labels) for each in train]
        rows, weights = drawn_rows([np.any(target, axis=1) for target in targets], seed)
        steps = [each.steps for each in train]
        self.projection = Projection.of(StepBlocks(steps, rows))
        self._offsets = offsets
        self._x = np.concatenate([self._projected(*pair) for pair in zip(steps, rows, strict=True)])
        self._targets = np.concatenate([t[chosen] for t, chosen in zip(targets, rows, strict=True)]).astype(np.float64)
        self._weights = weights
        self._owners = np.repeat(np.arange(len(train)), [len(chosen) for chosen in rows])
        self._variances = np.einsum("ij,ij->j", self._x, self._x) / max(1, len(self._x))

    def _projected(self, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        width = self.projection.axes.shape[1] * len(self._offsets)
        found = [np.empty((0, width), np.float32)]
        for first, block in self.projection.context_blocks(steps, self._offsets):
            inside = rows[(rows >= first) & (rows < first + len(block))]
            found.append(block[inside - first])
        return np.concatenate(found)

    def path(self, kept: np.ndarray, grid: Sequence[float]) -> list[Linear]:
        """Fit on the recordings that (recordings,) bool keeps, for each strength of the penalty."""
        rows = kept[self._owners]
        weights = self._weights[rows, None]
        return list(fit_path(self._x[rows], self._targets[rows], weights, self._variances, True, grid))

    def probabilities(self, steps: np.ndarray, paths: Sequence[Linear]) -> np.ndarray:
        """Return (C, T, K) float32 probabilities of a recording's (T, E) steps, by each fit."""
        blocks = [block for _, block in self.projection.context_blocks(steps, self._offsets)]
        logits = [np.concatenate([linear.logits(block) for block in blocks]) for linear in paths]
        return np.stack([probabilities_of(each, True).astype(np.float32) for each in logits])


def drawn_rows(active: Sequence[np.ndarray], seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw the time steps to fit on: all, or `MAX_TRAIN_STEPS`.

    Args:
        active: For each recording (T,) bool: whether a step has a label.
        seed: Of the draw.

    Returns:
        The ascending numbers of each recording's drawn steps, and (n,) weights of all of them.
    """
    flat = np.concatenate(active)
    weights = np.ones(len(flat))
    chosen = np.ones(len(flat), bool)
    if len(flat) > MAX_TRAIN_STEPS:
        rng = np.random.default_rng(seed)
        with_label = min(int(flat.sum()), int(MAX_ACTIVE_SHARE * MAX_TRAIN_STEPS))
        for is_kind, size in ((flat, with_label), (~flat, MAX_TRAIN_STEPS - with_label)):
            members = np.flatnonzero(is_kind)
            drawn = rng.choice(members, min(size, len(members)), replace=False)
            chosen[members], chosen[drawn] = False, True
            weights[members] = len(members) / max(1, len(drawn))
    ends = np.cumsum([len(each) for each in active])
    rows = [np.flatnonzero(part) for part in np.split(chosen, ends[:-1])]
    return rows, weights[chosen]


def parts_of(train: Sequence[LabelledSteps]) -> list[LabelledSteps]:
    """Return the recordings for cross-validation: fewer than `FOLDS` of them are cut into `FOLDS` parts each."""
    if len(train) >= FOLDS:
        return list(train)
    parts = []
    for each in train:
        cuts = np.linspace(0, len(each.times_ms), FOLDS + 1).astype(int)
        ranges = [(a, b) for a, b in itertools.pairwise(cuts) if a < b]
        parts += [each.part(first, end, f"{each.name}#{number}") for number, (first, end) in enumerate(ranges)]
    return parts


def folds_of(train: Sequence[LabelledSteps]) -> np.ndarray:
    """Return the number of the part of cross-validation of each recording.

    Recordings are dealt out by the label that is rarest in them, so that each label is in as many parts as possible;
    the order of those with the same one is that of the digests of their names, which depends on nothing else.
    """
    counts: dict[str, int] = {}
    for each in train:
        for label in {event.label for event in each.events}:
            counts[label] = counts.get(label, 0) + 1
    rarest = [min(((counts[e.label], e.label) for e in each.events), default=(len(train) + 1, "")) for each in train]
    digests = [
        hashlib.sha256(each.name.rpartition("/")[2].encode(errors="surrogateescape")).hexdigest() for each in train
    ]
    order = sorted(range(len(train)), key=lambda number: (rarest[number], digests[number]))
    folds = np.empty(len(train), np.int64)
    folds[order] = np.arange(len(train)) % FOLDS
    return folds

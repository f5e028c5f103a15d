"""The sections of a recipe: data, masks, losses, optimizer. Defaults are the paper's values where the paper gives them.

The docstring under a field is its help on the command line.
"""

import math
from dataclasses import dataclass
from typing import Literal

from maeast_upstream.checks import check_numbers
from pretrain.data_config import MAX_CLIPS, MAX_POWER
from pretrain.data_config import MAX_STEPS as MAX_STEPS
from pretrain.data_config import DataConfig as DataConfig
from pretrain.data_config import require as require

PROBABILITIES = (0.01, 10.0)
"""Range of the probability of spans: 99 % to next to none of the tokens stay masked."""
MAX_WIDTH, MAX_LOSS_WEIGHT = 1 << 16, 1e6
"""No run needs more; from much larger values only infinite numbers or an endless wait come."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens the encoder does not see."""

    ratio: float = 0.75
    """Share of masked tokens; exact for every mask type."""
    chunk_share: float = 0.0
    """Share of clips masked in square chunks of 3 to 5 tokens."""
    span_share: float = 0.0
    """Share of clips masked in spans of 10 time steps (wav2vec 2.0), for frame tokens."""
    inverse_share: float = 0.0
    """Share of clips in which square blocks of 5 x 5 tokens stay visible (EAT)."""
    chunk_official_share: float = 0.0
    """Share of clips masked by chunk_mask of the published code: one mask per batch, chunks wrap at the mel edge."""
    spans_official_share: float = 0.0
    """Share of clips masked by retain_spans of the published code, which keeps the spans that it draws; for frame
    tokens. All remaining clips are masked at random."""
    spans_official_probability: float | None = None
    """Mask all clips as retain_spans does with this random_mask_prob, of which it makes the number of masked tokens:
    with the published 1.45 it keeps about 77 %, so that ratio has no effect. null uses ratio and the shares."""

    @property
    def shares(self) -> dict[str, float]:
        """Mask type -> its share, where it is above 0."""
        types = ("chunk", "span", "inverse", "chunk_official", "spans_official")
        return {name: share for name in types if (share := getattr(self, f"{name}_share"))}

    @property
    def counts_vary(self) -> bool:
        """Whether batches of one shape differ in their number of masked tokens."""
        return self.spans_official_probability is not None

    @property
    def expected_ratio(self) -> float:
        """Expected share of masked tokens."""
        probability = self.spans_official_probability
        return self.ratio if probability is None else math.exp(-probability)

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0.0 < self.ratio < 1.0, f"ratio must lie between 0 and 1, got {self.ratio}")
        for name, share in self.shares.items():
            require(0.0 <= share <= 1.0, f"{name}_share must lie in 0..1, got {share}")
        given = " + ".join(f"{name}_share {share}" for name, share in self.shares.items())
        require(sum(self.shares.values()) <= 1.0 + 1e-9, f"the shares of the mask types are more than 1: {given}")
        if self.spans_official_probability is not None:
            low, high = PROBABILITIES
            value = self.spans_official_probability
            require(low <= value <= high, f"spans_official_probability must lie in {low:g}..{high:g}, got {value}")
            require(not self.shares, f"spans_official_probability masks all clips; drop it, or {given}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses; a loss with weight 0 is not computed."""

    reconstruction: float = 10.0
    """Weight of the mean squared error of the masked patches."""
    classification: float = 1.0
    """Weight of the InfoNCE loss among the masked patches of a clip."""
    temperature: float = 1.0
    """Temperature of that InfoNCE loss; 1 as published."""
    classification_over: Literal["targets", "predictions"] = "targets"
    """What the softmax of that InfoNCE loss runs over: the masked patches for each prediction (both papers' equation,
    MAE-AST's code), or the predictions for each masked patch (SSAST's code)."""
    normalize_targets: bool = False
    """Predict each patch minus its own mean, divided by its own standard deviation (MAE), instead of the patch."""
    masked_share: float = 1.0
    """Random share of each clip's masked tokens that is decoded and predicted: less work, a noisier loss."""
    clip: float = 0.0
    """Weight of the InfoNCE loss between two views of a clip. The negatives are the other clips of the batch that the
    same process has in the same accumulation step."""
    clip_views: Literal["crops", "masks"] = "crops"
    """The two views of the clip loss: two crops of the clip, or one crop with two disjoint sets of visible tokens."""
    clip_temperature: float = 0.1
    """Temperature of the clip loss."""
    clip_dim: int = 128
    """Width of the clip loss's head."""
    latent: float = 0.0
    """Weight of the mean squared error between masked tokens' predicted vectors and those that a moving average of the
    encoder's weights computes (data2vec, M2D)."""
    latent_input: Literal["masked", "all"] = "masked"
    """What the moving average sees of a crop: the masked tokens that are predicted (M2D), or all tokens
    (data2vec)."""
    latent_layers: int | None = None
    """The last layers of the moving average whose outputs, each normalised, are averaged to a target; null for two
    thirds of the encoder (data2vec's 8 of 12)."""
    latent_decay: float = 0.999
    """Decay of the moving average at the first update: average = decay * average + (1 - decay) * weight."""
    latent_end_decay: float = 0.9999
    """Decay after latent_decay_steps updates and later."""
    latent_decay_steps: int = 30_000
    """Updates over which the decay goes linearly from latent_decay to latent_end_decay."""
    supervised: float = 0.0
    """Weight of the sum of the losses of label_columns: cross-entropy of linear functions of the mean visible token."""
    label_columns: str | None = None
    """Columns of the table of labels that losses.supervised learns, with the weight of each (1 where none is given),
    as in kind:1,language:0.5."""
    label_smoothing: float = 0.0
    """Share of each label's probability that is spread over all classes of its column."""
    teacher: float = 0.0
    """Weight of the cosine distance between a linear function of the mean visible token and the vector of a teacher,
    mean over the teachers."""
    teacher_standardize: bool = False
    """Give each value of a table's vectors mean 0 and deviation 1 over its rows first. Where all vectors have much of
    one direction, as those of networks that end with a ReLU do, their cosines differ little without this."""
    cluster: float = 0.0
    """Weight of the cross-entropy of the masked tokens' clusters (HuBERT), which the recipe's clusters gives."""
    cluster_dim: int = 256
    """Width of the vectors whose cosines are the logits of the clusters."""
    cluster_temperature: float = 0.1
    """Temperature of these cosines."""

    @property
    def crops(self) -> int:
        """Crops of each clip in a batch."""
        return 2 if self.clip and self.clip_views == "crops" else 1

    @property
    def label_weights(self) -> dict[str, float]:
        """The weight of each column of labels that is learned; ValueError if label_columns is none."""
        weights: dict[str, float] = {}
        for part in (self.label_columns or "").split(",") if self.supervised else ():
            name, colon, weight = part.rpartition(":")
            name, text = (name.strip(), weight) if colon else (part.strip(), "1")
            problem = f"label_columns {self.label_columns}: expected columns and weights, as in kind:1,speaker:0.5"
            try:
                value = float(text)
            except ValueError:
                raise ValueError(f"{problem}; {text[:40]!r} is no number") from None
            known = {other.casefold() for other in weights}  # as a table's columns are found
            require(bool(name) and 0 < value <= MAX_LOSS_WEIGHT and name.casefold() not in known, problem)
            weights[name] = value
        return weights

    @property
    def disjoint_views(self) -> bool:
        """Whether a crop goes through the network twice, with disjoint sets of visible tokens."""
        return self.clip > 0 and self.clip_views == "masks"

    @property
    def predicts(self) -> bool:
        """Whether the decoder predicts something of the masked tokens."""
        return bool(self.reconstruction or self.classification or self.latent or self.cluster)

    def __post_init__(self) -> None:
        weighted = ("reconstruction", "classification", "clip", "latent", "supervised", "teacher", "cluster")
        at_most = (-MAX_LOSS_WEIGHT, MAX_LOSS_WEIGHT)
        limits = dict.fromkeys(("clip_dim", "latent_layers", "cluster_dim"), (1, MAX_WIDTH))
        check_numbers(self, **dict.fromkeys(weighted, at_most), **limits, latent_decay_steps=(0, MAX_STEPS))
        weights = [getattr(self, name) for name in weighted]
        require(min(weights) >= 0, f"loss weights must not be negative, got {', '.join(map(str, weights))}")
        require(any(weights), "at least one loss weight must be above 0")
        for name in ("temperature", "clip_temperature", "cluster_temperature"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        require(
            not self.supervised or self.label_columns is not None,
            f"supervised {self.supervised} needs label_columns: give the columns of the table of labels, as in kind:1",
        )
        _ = self.label_weights
        require(0.0 <= self.label_smoothing < 1.0, f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        require(0.0 < self.masked_share <= 1.0, f"masked_share must lie in (0, 1], got {self.masked_share}")
        require(
            0.0 <= self.latent_decay <= self.latent_end_decay < 1.0,
            f"latent_decay {self.latent_decay} and latent_end_decay {self.latent_end_decay} must lie in [0, 1), the "
            f"second not below the first",
        )
        require(
            self.clip_views == "crops" or self.clip > 0,
            "clip_views masks is a choice of the clip loss, but clip is 0: drop one of them",
        )
        require(
            self.masked_share == 1.0 or self.predicts,
            f"masked_share {self.masked_share} is for what the decoder predicts, but reconstruction, classification, "
            f"latent and cluster are 0: drop it",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a linear warm-up, a constant rate, then a decay to 0."""

    lr: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Adam's beta1."""
    beta2: float = 0.98
    """Adam's beta2."""
    eps: float = 1e-6
    """Adam's epsilon."""
    weight_decay: float = 0.01
    """Weight decay of matrices, and with decay_all of all weights."""
    decay_all: bool = False
    """Decay biases, norms and mask embeddings too, as the published code does; false leaves them alone."""
    grad_norm: float = 10.0
    """Gradients are clipped to this norm."""
    steps: int = 550_000
    """Updates of the whole run."""
    warmup_steps: int = 32_000
    """Updates until the learning rate reaches its peak."""
    warmup_from_zero: bool = False
    """Make the first update with a learning rate of 0, as fairseq does: each rate of the warm-up comes one update
    later."""
    decay_steps: int = 518_000
    """Updates at the end of the run over which the learning rate falls to 0."""
    decay: Literal["polynomial", "cosine"] = "polynomial"
    """Shape of the decay."""
    decay_power: float = 1.0
    """Exponent of the polynomial decay; 1 is linear."""
    accumulation_steps: int = 1
    """Micro-batches into which each process cuts its share of a batch: less memory, the same update, except that
    losses.clip finds its negatives within one micro-batch."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights in ema/, which load_model prefers: 0.999 averages about 1000
    updates; null for none."""

    def __post_init__(self) -> None:
        check_numbers(self, steps=(1, MAX_STEPS), accumulation_steps=(1, MAX_CLIPS), decay_power=(0, MAX_POWER))
        for name in ("lr", "grad_norm", "eps", "decay_power"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "decay_steps", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            require(0.0 <= getattr(self, name) < 1.0, f"{name} must lie in [0, 1), got {getattr(self, name)}")
        require(
            self.ema_decay is None or 0.0 < self.ema_decay < 1.0,
            f"ema_decay must lie between 0 and 1, got {self.ema_decay}",
        )
        require(
            self.decay == "polynomial" or self.decay_power == 1.0,
            f"decay cosine has no decay_power, got {self.decay_power}: drop one of them",
        )
        require(
            not self.warmup_from_zero or self.warmup_steps > 0,
            "warmup_from_zero begins a warm-up, but warmup_steps is 0: drop one of them",
        )
        require(
            self.warmup_steps + self.decay_steps <= self.steps,
            f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} are more than steps {self.steps}",
        )

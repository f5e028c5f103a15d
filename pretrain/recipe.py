"""A recipe: every setting of a pretraining run, as one YAML file in configs/ holds it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from maeast_upstream.audio.constants import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES
from maeast_upstream.checks import check_numbers
from maeast_upstream.config import FrontendConfig, ModelConfig
from pretrain.config import MAX_STEPS, DataConfig, LossConfig, MaskConfig, OptimConfig, require

ObjectiveName = Literal["mae_ast", "ssast", "ssast_two_pass"]
Precision = Literal["fp32", "bf16", "fp16"]
MAX_SEED = 1 << 40
"""Each step has a seed of its own, the run's times a million, and torch's have 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pretraining run."""

    out: str = "runs/mae_ast"
    """Folder of the run: config.yaml, metrics.jsonl, states/ (for resuming), and the encoders last/, best/ and ema/."""
    init: str | None = None
    """Checkpoint to begin with (a name, path, run or hub id), with its normalisation; null for random weights."""
    labels: str | None = None
    """A table of labels by clip that losses.supervised learns: CSV, TSV or parquet with a column of names (clip, path
    or name) and those of losses.label_columns. An empty cell is a missing label, and | separates several."""
    teacher: str | None = None
    """What losses.teacher learns from, several separated by commas: tables of vectors by clip, as maeast embed writes
    them (parquet, npz, folders of parquet or npy files) or CSV, or checkpoints of this package, computed during
    training."""
    clusters: str | None = None
    """Folder that python -m pretrain.targets wrote for the training corpus: what losses.cluster predicts."""
    seed: int = 0
    """Seed of the weights, crops and masks."""
    objective: ObjectiveName = "mae_ast"
    """mae_ast: the encoder sees the visible tokens and a decoder predicts the others. ssast: the baseline, whose
    encoder sees all positions with mask tokens, and two heads predict. ssast_two_pass: with one pass and one mask for
    each loss, as SSAST's code has it (whose InfoNCE is losses.classification_over predictions)."""
    device: str | None = None
    """cpu, cuda or cuda:N; null uses a GPU if there is one."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """With several processes (torchrun, accelerate launch): each holds all weights (ddp) or a share of them (fsdp)."""
    precision: Precision = "bf16"
    """Precision of the matrix products; fp16 (with a loss scaler) needs a GPU."""
    normalisation: Literal["fixed", "batch"] = "fixed"
    """Normalise the spectrogram with the corpus's mean and standard deviation (pretrain.stats), or with each batch's
    own, as published."""
    compile: bool | Literal["auto"] = False
    """Compile the network with torch.compile before the first update: true (needs a C++ compiler on a CPU), false, or
    auto: where there is a compiler, on a CPU only without dropout, with which a compiled step is slower there."""
    log_every: int = 50
    """Updates between two lines of the log."""
    save_every: int = 1000
    """Updates between two saves."""
    keep_last: int = 2
    """Number of saved states to keep, besides the best one."""
    validate_every: int = 1000
    """Updates between two validations, if data.validation is set."""
    validate_batches: int = 20
    """Batches of a validation."""
    probe: str | None = None
    """A labels.csv (see maeast probe) on which the frozen encoder is scored during training; null for none."""
    probe_every: int = 10_000
    """Updates between two probes."""
    tensorboard: bool = True
    """Write curves and pictures for TensorBoard to the run's folder tensorboard/."""
    tracker: Literal["none", "wandb", "mlflow"] = "none"
    """Also send the curves to Weights & Biases or MLflow, which must be installed and set up."""
    max_minutes: float | None = None
    """Save and stop after this many minutes; null trains to the last update."""
    model: ModelConfig = field(default_factory=ModelConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskConfig = field(default_factory=MaskConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @property
    def passes(self) -> int:
        """Rows that each crop becomes: two if it goes through the network with two masks."""
        return 2 if self.losses.disjoint_views or self.objective == "ssast_two_pass" else 1

    def __post_init__(self) -> None:
        periods = ("log_every", "save_every", "keep_last", "validate_every", "validate_batches", "probe_every")
        check_numbers(self, **dict.fromkeys(periods, (1, MAX_STEPS)), seed=(0, MAX_SEED))
        require(
            self.max_minutes is None or self.max_minutes > 0, f"max_minutes must be above 0, got {self.max_minutes}"
        )
        require(
            self.model.num_mel_bins == self.frontend.num_mel_bins,
            f"model.num_mel_bins {self.model.num_mel_bins} is not the front end's {self.frontend.num_mel_bins}",
        )
        for contradiction in (*_precision(self), *_objective(self), *_views(self), *_targets(self)):
            raise ValueError(contradiction)
        frames = (round(self.data.crop_seconds * SAMPLE_RATE) - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        tokens = frames // self.model.patch_frames * self.model.mel_patches
        require(
            tokens >= 2,
            f"data.crop_seconds {self.data.crop_seconds} gives {tokens} tokens, of which masking.ratio "
            f"{self.masking.ratio} leaves none to predict: make the crops longer",
        )


def _precision(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the recipe's precision."""
    if recipe.precision == "fp16" and recipe.sharding == "fsdp":
        yield "precision fp16 and sharding fsdp do not go together: take precision bf16"
    if recipe.precision == "fp16" and recipe.device == "cpu":
        yield "precision fp16 and device cpu do not go together: take precision bf16 or fp32"


def _objective(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the recipe's objective and its losses."""
    name, losses, decoder = recipe.objective, recipe.losses, recipe.model.decoder_depth
    weights = f"losses.reconstruction is {losses.reconstruction} and losses.classification {losses.classification}"
    if name == "mae_ast" and decoder == 0 and (losses.reconstruction or losses.classification):
        yield f"{weights}, which need a decoder, but model.decoder_depth is 0"
    if name != "mae_ast" and decoder > 0:
        yield f"objective {name} has no decoder, but model.decoder_depth is {decoder}: give 0"
    for loss in ("clip", "supervised", "teacher"):
        if name != "mae_ast" and (weight := getattr(losses, loss)) > 0:
            yield f"objective {name} and losses.{loss} {weight} do not go together: give losses.{loss} 0"
    yield from _token_targets(recipe)
    if name == "ssast_two_pass" and not (losses.reconstruction and losses.classification):
        yield f"objective ssast_two_pass has a pass for each loss, but {weights}: give objective ssast"


def _token_targets(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the recipe's targets of masked tokens other than patches."""
    losses, model = recipe.losses, recipe.model
    for name, weight in (("latent", losses.latent), ("cluster", losses.cluster)):
        if weight and recipe.objective != "mae_ast":
            yield f"objective {recipe.objective} and losses.{name} {weight} do not go together: give losses.{name} 0"
        if weight and model.decoder_depth == 0:
            yield f"losses.{name} {weight} needs a decoder, but model.decoder_depth is 0"
    if losses.latent and (losses.latent_layers or 0) > model.depth:
        yield f"losses.latent_layers {losses.latent_layers} is more than model.depth {model.depth}"
    if losses.cluster and recipe.clusters is None:
        yield (
            f"losses.cluster {losses.cluster} needs targets: give --clusters a folder that python -m pretrain.targets "
            "wrote"
        )
    if recipe.clusters is not None and not losses.cluster:
        yield f"clusters {recipe.clusters} are the targets of losses.cluster, but losses.cluster is 0: drop one of them"


def _views(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the recipe's views of a clip and its share of predicted tokens."""
    losses, padded = recipe.losses, recipe.data.padded
    if recipe.masking.spans_official_probability is not None:
        if recipe.model.mel_patches > 1:
            yield "masking.spans_official_probability is for frame tokens (model.patch_mels = model.num_mel_bins)"
        if losses.disjoint_views or padded:
            other = "losses.clip_views masks" if losses.disjoint_views else "data.short_clips pad"
            yield f"masking.spans_official_probability and {other} do not go together: drop one of them"
    if losses.disjoint_views and recipe.masking.ratio < 0.5:
        yield (
            f"losses.clip_views masks needs two disjoint sets of visible tokens, but masking.ratio "
            f"{recipe.masking.ratio} leaves more than half visible: give at least 0.5"
        )


def _targets(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the recipe's targets that are looked up or computed."""
    losses = recipe.losses
    if losses.supervised and not recipe.labels:
        yield f"losses.supervised {losses.supervised} needs labels: give --labels a table of them"
    if losses.teacher and not (recipe.teacher or "").strip(", "):
        yield f"losses.teacher {losses.teacher} needs a teacher: give --teacher a table of vectors or a checkpoint"
    validated = losses.reconstruction, losses.classification, losses.clip, losses.latent
    if recipe.data.validation is not None and not any(validated):
        yield "data.validation needs losses.reconstruction, classification, clip or latent: others are not validated"

"""A recipe: everything that decides a pretraining run, typed, with the paper's values as defaults where it has them."""

from dataclasses import dataclass, field
from typing import Literal

from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, FrontendConfig
from maeast_upstream.model import ModelConfig
from pretrain.masking import num_masked


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how clips are cut and mixed."""

    corpus: str = "corpus"
    """Folder of WebDataset shards, or of audio files."""
    packed: str | None = None
    """Where the decoded corpus is kept; null for CORPUS/packed."""
    crop_seconds: float = 10.0
    """Length of the random crops; shorter clips are repeated to it."""
    max_crop_seconds: float | None = None
    """If given, each batch draws its crop length between crop_seconds and this, evenly in its logarithm."""
    batch_clips: int = 32
    """Clips in a batch (fewer where crops are longer than crop_seconds, so that their seconds stay the same);
    each gives two crops if losses.clip is above 0, else one."""
    kind_power: float = 1.0
    """A kind of audio is drawn in proportion to (its number of clips) ** kind_power: 1 as they come, 0 equally."""
    min_gain_db: float = 0.0
    """Each crop's level is changed by a random gain, at least this one."""
    max_gain_db: float = 0.0
    """At most this gain."""
    mix: bool = False
    """Add to each crop a crop of another clip of the batch, 8 to 25 dB below it."""
    workers: int = 1
    """Processes that read ahead, and that decode the corpus; 0 for none beside the training itself."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        if self.crop_seconds < 0.2:
            raise ValueError(f"crop_seconds must be at least 0.2, got {self.crop_seconds}")
        if self.max_crop_seconds is not None and self.max_crop_seconds < self.crop_seconds:
            raise ValueError(f"max_crop_seconds {self.max_crop_seconds} is below crop_seconds {self.crop_seconds}")
        if self.batch_clips < 2:
            raise ValueError(f"batch_clips must be at least 2, got {self.batch_clips}")
        if self.min_gain_db > self.max_gain_db:
            raise ValueError(f"min_gain_db {self.min_gain_db} is above max_gain_db {self.max_gain_db}")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens the encoder does not see."""

    ratio: float = 0.75
    """Share of removed tokens."""
    chunk_share: float = 0.0
    """Share of clips whose mask is made of square chunks of 3 to 5 tokens; the others' is random."""

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio must lie between 0 and 1, got {self.ratio}")
        if not 0.0 <= self.chunk_share <= 1.0:
            raise ValueError(f"chunk_share must lie in 0..1, got {self.chunk_share}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses; what has weight 0 is not computed."""

    reconstruction: float = 10.0
    """Mean squared error of the masked patches."""
    classification: float = 1.0
    """InfoNCE among a clip's masked patches."""
    clip: float = 0.0
    """InfoNCE between two crops of a clip."""
    clip_temperature: float = 0.1
    """Divides the cosines of the clip loss."""
    clip_dim: int = 128
    """Width of the clip loss's head."""

    @property
    def views(self) -> int:
        """Crops of each clip in a batch."""
        return 2 if self.clip else 1

    def __post_init__(self) -> None:
        if min(self.reconstruction, self.classification, self.clip) < 0:
            raise ValueError(
                f"loss weights must not be negative, got {self.reconstruction}, {self.classification}, {self.clip}"
            )
        if not (self.reconstruction or self.classification or self.clip):
            raise ValueError("at least one loss weight must be above 0")
        if self.clip_temperature <= 0 or self.clip_dim < 1:
            raise ValueError(
                f"clip_temperature and clip_dim must be above 0, got {self.clip_temperature} and {self.clip_dim}"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW: linear warm-up, constant, then linear decay to 0."""

    lr: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Adam's first decay."""
    beta2: float = 0.98
    """Adam's second decay."""
    eps: float = 1e-6
    """Adam's epsilon."""
    weight_decay: float = 0.01
    """On matrices only, not on biases and norms."""
    grad_norm: float = 10.0
    """Gradients are scaled down to this norm."""
    steps: int = 550_000
    """Batches in all."""
    warmup_steps: int = 32_000
    """Batches until the peak."""
    decay_steps: int = 518_000
    """Last batches, over which the rate falls to 0."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0:
            raise ValueError(f"steps and lr must be above 0, got {self.steps} and {self.lr}")
        if min(self.warmup_steps, self.decay_steps, self.weight_decay) < 0:
            raise ValueError("warmup_steps, decay_steps and weight_decay must not be negative")
        if self.grad_norm <= 0 or self.eps <= 0:
            raise ValueError(f"grad_norm and eps must be above 0, got {self.grad_norm} and {self.eps}")
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0):
            raise ValueError(f"beta1 and beta2 must lie in [0, 1), got {self.beta1} and {self.beta2}")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} are more than steps {self.steps}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pretraining run."""

    out: str = "runs/mae_ast"
    """Folder of the run: config.yaml, log.jsonl, state.pt, last/ (the encoder)."""
    init: str | None = None
    """Checkpoint to begin with (a name, path, run or hub id), its normalisation included; null for random weights."""
    seed: int = 0
    """Decides weights, crops and masks."""
    device: str | None = None
    """cpu, cuda or cuda:N; null takes a GPU if there is one."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the matrix products."""
    compile: bool = False
    """torch.compile the network (needs a C++ compiler on a CPU)."""
    log_every: int = 50
    """Batches between two lines of the log."""
    save_every: int = 1000
    """Batches between two saves."""
    max_minutes: float | None = None
    """Save and stop after this long; null trains to the last batch."""
    model: ModelConfig = field(default_factory=ModelConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskConfig = field(default_factory=MaskConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if min(self.log_every, self.save_every) < 1:
            raise ValueError(f"log_every and save_every must be at least 1, got {self.log_every} and {self.save_every}")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be above 0, got {self.max_minutes}")
        if self.model.num_mel_bins != self.frontend.num_mel_bins:
            raise ValueError(
                f"model.num_mel_bins {self.model.num_mel_bins} is not the front end's {self.frontend.num_mel_bins}"
            )
        frames = (round(self.data.crop_seconds * SAMPLE_RATE) - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        tokens = frames // self.model.patch_frames * self.model.mel_patches
        if tokens == 0 or num_masked(tokens, self.masking.ratio) < 1:
            raise ValueError(
                f"data.crop_seconds {self.data.crop_seconds} gives {tokens} tokens, of which masking.ratio "
                f"{self.masking.ratio} leaves none to predict: make the crops longer"
            )

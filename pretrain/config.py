"""A recipe: everything that decides a pretraining run, typed, with the paper's values as defaults where it has them."""

from dataclasses import dataclass, field
from typing import Literal

from maeast_upstream.frontend import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES, FrontendConfig
from maeast_upstream.model import ModelConfig
from pretrain.masking.rules import num_masked

LONGEST_CROP_SECONDS = 3600.0
"""Beyond an hour no step fits into any memory."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how clips are cut and mixed."""

    corpus: str = "corpus"
    """Folder of audio files or of tar shards, a .tsv manifest, a folder of pretrain.pack, or shards by address:
    {000..999} counts."""
    pack: bool = True
    """Decode the corpus once into packed and train from there: fastest, resumes exactly. false reads files (resumes
    exactly) or streams shards (resumes with a fresh shuffle)."""
    packed: str | None = None
    """Where the decoded corpus is kept; null for CORPUS/packed."""
    validation: str | None = None
    """Audio that is never trained on: folder, manifest or folder of pretrain.pack; null for no validation."""
    crop_seconds: float = 10.0
    """Length of the random crops."""
    max_crop_seconds: float | None = None
    """If given, each batch draws its crop length between crop_seconds and this, one of 16, evenly in its logarithm."""
    min_seconds: float = 0.0
    """Shorter clips are left out."""
    short: Literal["repeat", "join", "pad"] = "repeat"
    """A clip shorter than the crop: goes round, is followed by other clips, or is padded and the padding masked."""
    buckets: int = 8
    """With short pad: a batch is of clips of like length, which are told apart in so many lengths."""
    batch_clips: int = 32
    """Clips of an update, over all processes and accumulated parts (fewer where crops are longer than crop_seconds, so
    that their seconds stay the same); each gives two crops with losses.clip and clip_views crops, else one."""
    kind_power: float = 1.0
    """A kind of audio is drawn in proportion to (its number of clips) ** kind_power: 1 as they come, 0 equally."""
    min_gain_db: float = 0.0
    """Each crop's level is changed by a random gain, at least this one."""
    max_gain_db: float = 0.0
    """At most this gain."""
    mix: bool = False
    """Add to each crop a crop of another clip of the batch, 8 to 25 dB below it."""
    shuffle_clips: int = 1000
    """Clips of streamed shards that are kept in each worker to be drawn from."""
    resident: bool = False
    """Copy the decoded corpus into the memory of the GPU that trains and cut crops there, for one that would wait for
    its loader; workers then decode the corpus only. Needs short repeat. On a CPU, and for
    validation, nothing is copied."""
    max_bad_share: float = 0.05
    """Stop, with the list, when more than this share of the clips that were read could not be decoded."""
    workers: int = 1
    """Processes that read ahead, and that decode the corpus; 0 for none beside the training itself."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        longest = self.crop_seconds if self.max_crop_seconds is None else self.max_crop_seconds
        if not (self.crop_seconds >= 0.2 and longest <= LONGEST_CROP_SECONDS):
            given = self.crop_seconds if longest == self.crop_seconds else f"{self.crop_seconds} to {longest}"
            raise ValueError(f"crop_seconds must be 0.2 to {LONGEST_CROP_SECONDS:g}, got {given}")
        if self.max_crop_seconds is not None and self.max_crop_seconds < self.crop_seconds:
            raise ValueError(f"max_crop_seconds {self.max_crop_seconds} is below crop_seconds {self.crop_seconds}")
        if self.batch_clips < 2:
            raise ValueError(f"batch_clips must be at least 2, got {self.batch_clips}")
        if self.min_gain_db > self.max_gain_db:
            raise ValueError(f"min_gain_db {self.min_gain_db} is above max_gain_db {self.max_gain_db}")
        if min(self.buckets, self.shuffle_clips) < 1:
            raise ValueError(f"buckets and shuffle_clips must be at least 1, got {self.buckets}, {self.shuffle_clips}")
        if self.min_seconds < 0 or not 0.0 <= self.max_bad_share < 1.0:
            raise ValueError(
                f"min_seconds must not be negative, max_bad_share in [0, 1); got {self.min_seconds}, "
                f"{self.max_bad_share}"
            )
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.resident and self.short != "repeat":
            raise ValueError(f"resident cuts crops with short repeat only, got short {self.short}: change one of them")
        if self.packed is not None and not self.pack:
            raise ValueError(f"packed {self.packed} says where to pack to, but pack is false: drop one of them")
        if self.short == "pad" and self.max_crop_seconds is not None:
            raise ValueError(
                f"short pad takes clips as long as they are, up to crop_seconds; max_crop_seconds "
                f"{self.max_crop_seconds} draws lengths: drop one of them"
            )


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens the encoder does not see."""

    ratio: float = 0.75
    """Share of removed tokens, exact for every kind of mask."""
    chunk_share: float = 0.0
    """Share of clips whose mask is made of square chunks of 3 to 5 tokens."""
    span_share: float = 0.0
    """Share of clips whose mask is made of spans of 10 time steps (wav2vec 2.0), for frame tokens."""
    inverse_share: float = 0.0
    """Share of clips of which square blocks of 5 x 5 tokens stay visible (EAT)."""
    chunk_official_share: float = 0.0
    """Share of clips masked by the published code's chunk_mask: one mask a batch, chunks wrap around the mel edge."""
    spans_official_share: float = 0.0
    """Share of clips masked by the published code's retain_spans, which keeps the spans that it draws; frame tokens.
    The masks of all other clips are random."""

    @property
    def shares(self) -> dict[str, float]:
        """Kind of mask -> its share, where it has one."""
        kinds = ("chunk", "span", "inverse", "chunk_official", "spans_official")
        return {kind: share for kind in kinds if (share := getattr(self, f"{kind}_share"))}

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio must lie between 0 and 1, got {self.ratio}")
        for kind, share in self.shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{kind}_share must lie in 0..1, got {share}")
        if sum(self.shares.values()) > 1.0 + 1e-9:
            given = " + ".join(f"{kind}_share {share}" for kind, share in self.shares.items())
            raise ValueError(f"the shares of the kinds of mask are more than 1: {given}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses; what has weight 0 is not computed."""

    reconstruction: float = 10.0
    """Mean squared error of the masked patches."""
    classification: float = 1.0
    """InfoNCE among a clip's masked patches."""
    temperature: float = 1.0
    """Divides the dot products of that InfoNCE; 1 as published."""
    normalised_targets: bool = False
    """What is predicted is each patch less its own mean, over its own deviation (MAE), not the patch itself."""
    masked_share: float = 1.0
    """Share of the masked tokens, drawn for each clip, that is decoded and predicted: less work, a noisier loss."""
    clip: float = 0.0
    """InfoNCE between two views of a clip; other clips of the batch (of each process's and accumulated part) are the
    negatives."""
    clip_views: Literal["crops", "masks"] = "crops"
    """The two views: two crops of the clip, or two visible sets of one crop that share no token."""
    clip_temperature: float = 0.1
    """Divides the cosines of the clip loss."""
    clip_dim: int = 128
    """Width of the clip loss's head."""

    @property
    def crops(self) -> int:
        """Crops of each clip in a batch."""
        return 2 if self.clip and self.clip_views == "crops" else 1

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
        if self.temperature <= 0 or not 0.0 < self.masked_share <= 1.0:
            raise ValueError(
                f"temperature must be above 0, masked_share in (0, 1]; got {self.temperature} and {self.masked_share}"
            )
        if self.clip_views == "masks" and not self.clip:
            raise ValueError("clip_views masks says what clip compares, but clip is 0: drop one of them")
        if self.masked_share < 1.0 and not (self.reconstruction or self.classification):
            raise ValueError(
                f"masked_share {self.masked_share} is of what reconstruction and classification predict, but both are "
                "0: drop it"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW: linear warm-up, constant, then decay to 0."""

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
    decay: Literal["polynomial", "cosine"] = "polynomial"
    """How it falls."""
    decay_power: float = 1.0
    """Of the polynomial: 1 falls in a line."""
    accumulate: int = 1
    """Parts, one after the other, in which each process takes its share of a batch: less memory, the same update, but
    that losses.clip has the negatives of a part only."""
    ema_decay: float | None = None
    """Keep a moving average of the weights, ema/, which is what load_model takes: 0.999 looks back about 1000 updates;
    null for none."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0:
            raise ValueError(f"steps and lr must be above 0, got {self.steps} and {self.lr}")
        if min(self.warmup_steps, self.decay_steps, self.weight_decay) < 0:
            raise ValueError("warmup_steps, decay_steps and weight_decay must not be negative")
        if self.grad_norm <= 0 or self.eps <= 0:
            raise ValueError(f"grad_norm and eps must be above 0, got {self.grad_norm} and {self.eps}")
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0):
            raise ValueError(f"beta1 and beta2 must lie in [0, 1), got {self.beta1} and {self.beta2}")
        if self.accumulate < 1 or self.decay_power <= 0:
            raise ValueError(f"accumulate and decay_power must be above 0, got {self.accumulate}, {self.decay_power}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if self.decay == "cosine" and self.decay_power != 1.0:
            raise ValueError(f"decay cosine has no decay_power, got {self.decay_power}: drop one of them")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.decay_steps} are more than steps {self.steps}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A pretraining run."""

    out: str = "runs/mae_ast"
    """Folder of the run: config.yaml, metrics.jsonl, states/ (what resuming needs), last/, best/, ema/ (encoders)."""
    init: str | None = None
    """Checkpoint to begin with (a name, path, run or hub id), its normalisation included; null for random weights."""
    seed: int = 0
    """Decides weights, crops and masks."""
    objective: Literal["mae_ast", "ssast", "ssast_two_pass"] = "mae_ast"
    """mae_ast: the encoder sees the visible tokens, a decoder predicts. ssast: the baseline, whose encoder sees all
    places, with mask tokens, and two heads predict; ssast_two_pass: as published, a pass and a mask for each loss."""
    device: str | None = None
    """cpu, cuda or cuda:N; null takes a GPU if there is one."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """Over several processes (torchrun, accelerate launch): each holds all weights, or its share of them."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the matrix products; fp16 (with a loss scaler) needs a GPU."""
    normalisation: Literal["fixed", "batch"] = "fixed"
    """Of the spectrogram: the corpus's mean and deviation (pretrain.stats), or each batch's own, as published."""
    compile: bool = False
    """torch.compile the network (needs a C++ compiler on a CPU)."""
    log_every: int = 50
    """Batches between two lines of the log."""
    save_every: int = 1000
    """Batches between two saves."""
    keep_last: int = 2
    """States of so many last saves are kept, beside the best."""
    validate_every: int = 1000
    """Batches between two validations, if there is data.validation."""
    validate_batches: int = 20
    """Batches of a validation."""
    probe: str | None = None
    """A labels.csv (maeast probe) to score the frozen encoder on while it trains; null for none."""
    probe_every: int = 10_000
    """Batches between two probes."""
    tensorboard: bool = True
    """Write curves and pictures for TensorBoard into the run's folder tensorboard/."""
    max_minutes: float | None = None
    """Save and stop after this long; null trains to the last batch."""
    model: ModelConfig = field(default_factory=ModelConfig)
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskConfig = field(default_factory=MaskConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        for name in (
            "log_every",
            "save_every",
            "keep_last",
            "validate_every",
            "validate_batches",
            "probe_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision == "fp16" and self.sharding == "fsdp":
            raise ValueError("precision fp16 and sharding fsdp do not go together: take precision bf16")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision fp16 and device cpu do not go together: take precision bf16 or fp32")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be above 0, got {self.max_minutes}")
        if self.model.num_mel_bins != self.frontend.num_mel_bins:
            raise ValueError(
                f"model.num_mel_bins {self.model.num_mel_bins} is not the front end's {self.frontend.num_mel_bins}"
            )
        self._refuse_contradictions()
        frames = (round(self.data.crop_seconds * SAMPLE_RATE) - WINDOW_SAMPLES) // HOP_SAMPLES + 1
        tokens = frames // self.model.patch_frames * self.model.mel_patches
        if tokens == 0 or num_masked(tokens, self.masking.ratio) < 1:
            raise ValueError(
                f"data.crop_seconds {self.data.crop_seconds} gives {tokens} tokens, of which masking.ratio "
                f"{self.masking.ratio} leaves none to predict: make the crops longer"
            )

    @property
    def passes(self) -> int:
        """Rows that each crop becomes: two where it goes through the network with two masks."""
        two_views = self.losses.clip > 0 and self.losses.clip_views == "masks"
        return 2 if two_views or self.objective == "ssast_two_pass" else 1

    def _refuse_contradictions(self) -> None:
        losses, decoder = self.losses, self.model.decoder_depth
        predicts = bool(losses.reconstruction or losses.classification)
        disjoint, padded = losses.clip_views == "masks", self.data.short == "pad"
        for wrong, message in (
            (
                self.objective != "mae_ast" and decoder > 0,
                f"objective {self.objective} has no decoder, but model.decoder_depth is {decoder}: give 0",
            ),
            (
                self.objective != "mae_ast" and losses.clip > 0,
                f"objective {self.objective} and losses.clip {losses.clip} do not go together: give losses.clip 0",
            ),
            (
                self.objective == "ssast_two_pass" and not (losses.reconstruction and losses.classification),
                f"objective ssast_two_pass has a pass for each loss, but losses.reconstruction is "
                f"{losses.reconstruction} and losses.classification {losses.classification}: give objective ssast",
            ),
            (
                self.objective == "mae_ast" and decoder == 0 and predicts,
                f"losses.reconstruction {losses.reconstruction} and losses.classification {losses.classification} need "
                "a decoder, but model.decoder_depth is 0",
            ),
            (
                disjoint and self.masking.ratio < 0.5,
                f"losses.clip_views masks wants two visible sets that share no token, but masking.ratio "
                f"{self.masking.ratio} leaves more than half visible: give at least 0.5",
            ),
            (disjoint and padded, "losses.clip_views masks and data.short pad do not go together: drop one of them"),
            (
                losses.masked_share < 1.0 and padded,
                f"losses.masked_share {losses.masked_share} and data.short pad do not go together: drop one of them",
            ),
        ):
            if wrong:
                raise ValueError(message)

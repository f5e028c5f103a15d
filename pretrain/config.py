"""The sections of a recipe: data, masks, losses, optimizer. Defaults are the paper's values where the paper gives them.

The docstring under a field is its help on the command line.
"""

from dataclasses import dataclass
from typing import Literal

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.checks import check_numbers

MIN_CROP_SECONDS, MAX_CROP_SECONDS = 0.2, 3600.0
"""Longer crops than an hour fit into no memory."""
MAX_WORKERS, MAX_CLIPS, MAX_STEPS, MAX_WIDTH = 1024, 1_000_000, 1 << 40, 1 << 16
MIN_SORTED_CLIPS = 8
"""With batch_by samples a batch has a multiple of so many clips. Source: required_batch_size_multiple of fairseq."""
MAX_GAIN_DB, MAX_POWER, MAX_LOSS_WEIGHT = 100.0, 100.0, 1e6
"""No run needs more; from much larger values only infinite numbers or an endless wait come."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The audio to train on, and how crops are cut from it and mixed."""

    corpus: str = "corpus"
    """Audio to train on: a folder of audio files or tar shards, a .tsv manifest, a folder written by pretrain.pack, or
    addresses of shards ({000..999} counts up)."""
    pack: bool = True
    """Decode the corpus once into `packed` and train from there: fastest, and a run resumes exactly. false reads the
    files themselves (resumes exactly) or streams shards (resumes with a new shuffle)."""
    packed: str | None = None
    """Folder for the decoded corpus. null keeps it beside the run, in packed/CORPUS-DIGEST, where the digest is that of
    the corpus's files: runs of one corpus share it, and a corpus that has changed gets a new one."""
    validation: str | None = None
    """Audio that is never trained on: a folder, a manifest or a folder written by pretrain.pack; null for no
    validation."""
    crop_seconds: float = 10.0
    """Length of the random crops."""
    max_crop_seconds: float | None = None
    """If set, each batch draws its crop length from 16 log-spaced lengths between crop_seconds and this."""
    min_seconds: float = 0.0
    """Clips shorter than this are left out, and counted in the log. 0 trains on all; the published code has 2."""
    short_clips: Literal["repeat", "join", "pad"] = "repeat"
    """How to fill a crop from a shorter clip, which is drawn as often as a long one: repeat the clip, join it with
    other clips, or zero-pad it and mask the padding."""
    length_buckets: int = 8
    """Number of length buckets when short_clips is pad; all clips of a batch come from one bucket."""
    batch_clips: int = 32
    """Clips of an update, over all processes and accumulation steps; fewer where max_crop_seconds draws longer crops,
    so that a batch always has the same seconds. A clip gives two crops with losses.clip and clip_views crops,
    otherwise one."""
    batch_by: Literal["clips", "samples"] = "clips"
    """clips: a batch has batch_clips crops of random clips. samples: as fairseq makes batches. An epoch has each clip
    once, in batches of clips of like length, as many as batch_samples holds, cut at random to the shortest clip of the
    batch and at most to crop_seconds; batch_clips has no effect."""
    batch_samples: int = 8_388_608
    """Samples of a batch with batch_by samples, fairseq's max_tokens; each clip counts as the longest of its batch."""
    max_counted_samples: int = 250_000
    """A longer clip counts only so many samples with batch_by samples (max_sample_size of the published code)."""
    kind_power: float = 1.0
    """Balance of the kinds of audio: a kind is drawn in proportion to (its number of clips) ** kind_power. 1 keeps the
    proportions of the corpus, 0 draws all kinds equally often."""
    min_gain_db: float = 0.0
    """Each crop is amplified by a random gain between min_gain_db and max_gain_db."""
    max_gain_db: float = 0.0
    """The largest random gain."""
    mix: bool = False
    """Add to each crop a crop of another clip of the batch, 8 to 25 dB below it."""
    shuffle_clips: int = 1000
    """Size of each worker's shuffle buffer when shards are streamed, in clips."""
    on_gpu: bool = False
    """Keep the decoded corpus in GPU memory and cut crops there, for a GPU that would otherwise wait for its loader.
    Workers then only decode the corpus. Needs short_clips repeat; has no effect on a CPU or on validation."""
    max_bad_share: float = 0.05
    """Stop and list the failures when more than this share of the clips that were read could not be decoded."""
    workers: int = 1
    """Processes that decode the corpus and read ahead; with 0 the training process does both itself."""

    @property
    def padded(self) -> bool:
        """Whether clips of a batch are padded to a common length."""
        return self.short_clips == "pad"

    @property
    def lengths_vary(self) -> bool:
        """Whether batches differ in their number of clips and in the length of these."""
        return self.padded or self.max_crop_seconds is not None or self.batch_by == "samples"

    @property
    def usual_batch(self) -> tuple[int, float]:
        """Clips of a batch and seconds of their crops, where most batches have the same."""
        if self.batch_by == "clips":
            return self.batch_clips, self.crop_seconds
        clips = self.batch_samples // self.max_counted_samples // MIN_SORTED_CLIPS * MIN_SORTED_CLIPS
        return clips, min(self.crop_seconds, self.max_counted_samples / SAMPLE_RATE)

    def __post_init__(self) -> None:
        clips = (1, MAX_CLIPS)
        check_numbers(
            self,
            workers=(0, MAX_WORKERS),
            batch_clips=(2, MAX_CLIPS),
            batch_samples=(1, MAX_STEPS),
            max_counted_samples=(1, MAX_STEPS),
            length_buckets=clips,
            shuffle_clips=clips,
            kind_power=(-MAX_POWER, MAX_POWER),
            min_gain_db=(-MAX_GAIN_DB, MAX_GAIN_DB),
            max_gain_db=(-MAX_GAIN_DB, MAX_GAIN_DB),
        )
        low, high = self.crop_seconds, self.crop_seconds if self.max_crop_seconds is None else self.max_crop_seconds
        given = f"{low}" if self.max_crop_seconds is None else f"{low} to {high}"
        require(
            low >= MIN_CROP_SECONDS and high <= MAX_CROP_SECONDS,
            f"crop_seconds must be {MIN_CROP_SECONDS:g} to {MAX_CROP_SECONDS:g}, got {given}",
        )
        require(low <= high, f"max_crop_seconds {self.max_crop_seconds} is below crop_seconds {self.crop_seconds}")
        require(
            self.min_gain_db <= self.max_gain_db,
            f"min_gain_db {self.min_gain_db} is above max_gain_db {self.max_gain_db}",
        )
        require(self.min_seconds >= 0, f"min_seconds must not be negative, got {self.min_seconds}")
        require(0.0 <= self.max_bad_share < 1.0, f"max_bad_share must lie in [0, 1), got {self.max_bad_share}")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        require(
            not self.on_gpu or self.short_clips == "repeat",
            f"on_gpu needs short_clips repeat, got short_clips {self.short_clips}: change one of them",
        )
        require(
            self.packed is None or self.pack,
            f"packed {self.packed} is the folder for the decoded corpus, but pack is false: drop one of them",
        )
        require(
            not self.padded or self.max_crop_seconds is None,
            f"short_clips pad takes clips as long as they are, up to crop_seconds, and max_crop_seconds "
            f"{self.max_crop_seconds} draws a length: drop one of them",
        )
        if self.batch_by == "samples":
            self._refuse_for_sorted()

    def _refuse_for_sorted(self) -> None:
        """Refuse what batches by samples do not go with."""
        require(
            self.batch_samples >= MIN_SORTED_CLIPS * self.max_counted_samples,
            f"batch_samples {self.batch_samples} must hold {MIN_SORTED_CLIPS} clips of max_counted_samples "
            f"{self.max_counted_samples}: give at least {MIN_SORTED_CLIPS * self.max_counted_samples}",
        )
        for name, unset in (("short_clips", "repeat"), ("max_crop_seconds", None), ("kind_power", 1.0)):
            require(
                getattr(self, name) == unset,
                f"batch_by samples takes each clip once and cuts it to the shortest of its batch, and {name} is "
                f"{getattr(self, name)}: drop one of them",
            )


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

    @property
    def shares(self) -> dict[str, float]:
        """Mask type -> its share, where it is above 0."""
        types = ("chunk", "span", "inverse", "chunk_official", "spans_official")
        return {name: share for name in types if (share := getattr(self, f"{name}_share"))}

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0.0 < self.ratio < 1.0, f"ratio must lie between 0 and 1, got {self.ratio}")
        for name, share in self.shares.items():
            require(0.0 <= share <= 1.0, f"{name}_share must lie in 0..1, got {share}")
        given = " + ".join(f"{name}_share {share}" for name, share in self.shares.items())
        require(sum(self.shares.values()) <= 1.0 + 1e-9, f"the shares of the mask types are more than 1: {given}")


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
    """What the moving average sees of a crop: the masked tokens that are predicted (M2D, which found this better), or
    all tokens (data2vec)."""
    latent_layers: int | None = None
    """The last layers of the moving average whose outputs, each normalised, are averaged to a target; null for two
    thirds of the encoder (data2vec's 8 of 12)."""
    latent_decay: float = 0.999
    """Decay of the moving average at the first update: average = decay * average + (1 - decay) * weight."""
    latent_end_decay: float = 0.9999
    """Decay after latent_decay_steps updates and later."""
    latent_decay_steps: int = 30_000
    """Updates over which the decay goes linearly from latent_decay to latent_end_decay."""
    teacher: float = 0.0
    """Weight of the cosine distance between a linear function of the mean visible token and the vector of a teacher,
    mean over the teachers."""

    @property
    def crops(self) -> int:
        """Crops of each clip in a batch."""
        return 2 if self.clip and self.clip_views == "crops" else 1

    @property
    def disjoint_views(self) -> bool:
        """Whether a crop goes through the network twice, with disjoint sets of visible tokens."""
        return self.clip > 0 and self.clip_views == "masks"

    @property
    def predicts(self) -> bool:
        """Whether the decoder predicts something of the masked tokens."""
        return bool(self.reconstruction or self.classification or self.latent)

    def __post_init__(self) -> None:
        weighted = ("reconstruction", "classification", "clip", "latent", "teacher")
        at_most = (-MAX_LOSS_WEIGHT, MAX_LOSS_WEIGHT)
        limits = {"clip_dim": (1, MAX_WIDTH), "latent_layers": (1, MAX_WIDTH), "latent_decay_steps": (0, MAX_STEPS)}
        check_numbers(self, **dict.fromkeys(weighted, at_most), **limits)
        weights = [getattr(self, name) for name in weighted]
        require(min(weights) >= 0, f"loss weights must not be negative, got {', '.join(map(str, weights))}")
        require(any(weights), "at least one loss weight must be above 0")
        for name in ("temperature", "clip_temperature"):
            require(getattr(self, name) > 0, f"{name} must be above 0, got {getattr(self, name)}")
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
            f"masked_share {self.masked_share} is for what the decoder predicts, but reconstruction, classification "
            f"and latent are 0: drop it",
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

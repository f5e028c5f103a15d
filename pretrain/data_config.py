"""The data section of a recipe, and what the sections share. The docstring under a field is its help.

`pretrain.config` has the other sections.
"""

from dataclasses import dataclass
from typing import Literal

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.checks import check_numbers

MIN_CROP_SECONDS, MAX_CROP_SECONDS = 0.2, 3600.0
"""Longer crops than an hour fit into no memory."""
MAX_WORKERS, MAX_CLIPS, MAX_STEPS = 1024, 1_000_000, 1 << 40
MIN_SORTED_CLIPS = 8
"""With batch_by samples a batch has a multiple of so many clips. Source: required_batch_size_multiple of fairseq."""
SYNTH_CORPUS = "synth:"
"""The corpus of computed sounds alone."""
MAX_GAIN_DB, MAX_POWER = 100.0, 100.0
"""No run needs more; from much larger values only infinite numbers or an endless wait come."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The audio to train on, and how crops are cut from it and mixed."""

    corpus: str = "corpus"
    """Audio to train on: a folder of audio files or tar shards, a .tsv manifest, a folder written by pretrain.pack,
    addresses of shards ({000..999} counts up), or synth: for sounds that are computed (pretrain.synth)."""
    synth_share: float = 0.0
    """This share of the clips of each batch, exact up to rounding, is computed (pretrain.synth) instead of drawn from
    the corpus; 0 for none."""
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
    join_with: Literal["any", "kind", "neighbours"] = "any"
    """With short_clips join, the clips that follow in the crop: any clips, clips of the same kind, or clips of the same
    kind among the 8 before and the 8 after in the corpus, which often have its speaker or instrument."""
    length_buckets: int = 8
    """Number of length buckets when short_clips is pad; all clips of a batch come from one bucket. Clips of
    crop_seconds and more, and with max_crop_seconds the lengths that it draws, are those of the last bucket."""
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
    Workers then only decode the corpus. Needs short_clips repeat or pad; has no effect on a CPU or on validation."""
    max_bad_share: float = 0.05
    """Stop and list the failures when more than this share of the clips that were read could not be decoded."""
    workers: int = 1
    """Processes that decode the corpus and read ahead; with 0 the training process does both itself."""

    @property
    def padded(self) -> bool:
        """Whether clips of a batch are padded to a common length."""
        return self.short_clips == "pad"

    @property
    def computed_only(self) -> bool:
        """Whether all sounds are computed."""
        return self.corpus == SYNTH_CORPUS

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
        require(
            0.0 <= self.synth_share < 1.0,
            f"synth_share must lie in [0, 1), got {self.synth_share}; for computed sounds alone give corpus synth:",
        )
        self._refuse_contradictions()
        self._refuse_for_computed()

    def _refuse_contradictions(self) -> None:
        require(
            not self.on_gpu or self.short_clips != "join",
            f"on_gpu needs short_clips repeat or pad, got short_clips {self.short_clips}: change one of them",
        )
        require(
            self.packed is None or self.pack,
            f"packed {self.packed} is the folder for the decoded corpus, but pack is false: drop one of them",
        )
        require(
            self.join_with == "any" or self.short_clips == "join",
            f"join_with {self.join_with} needs short_clips join, got {self.short_clips}: change one of them",
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
        for name, unset in (
            ("short_clips", "repeat"),
            ("max_crop_seconds", None),
            ("kind_power", 1.0),
            ("synth_share", 0.0),
        ):
            require(
                getattr(self, name) == unset,
                f"batch_by samples takes each clip once and cuts it to the shortest of its batch, and {name} is "
                f"{getattr(self, name)}: drop one of them",
            )

    def _refuse_for_computed(self) -> None:
        """Refuse what computed sounds do not go with."""
        corpus = self.corpus
        require(
            not corpus.startswith(SYNTH_CORPUS) or self.computed_only,
            f"corpus {corpus}: computed sounds have no name; give {SYNTH_CORPUS} alone",
        )
        require(
            not (self.on_gpu and (self.computed_only or self.synth_share)),
            "on_gpu cuts crops of recordings only, and computed sounds come from the loader: give on_gpu false",
        )
        if not self.computed_only:
            return
        require(self.synth_share == 0.0, f"all sounds of {corpus} are computed: drop synth_share {self.synth_share}")
        require(self.packed is None, f"nothing is decoded for corpus {corpus}: drop packed {self.packed}")
        require(not self.padded, f"computed sounds are as long as the crop: with corpus {corpus} drop short_clips pad")
        require(
            self.batch_by == "clips", f"computed sounds have no lengths: with corpus {corpus} drop batch_by samples"
        )

"""The random crops of a batch.

A batch is a pure function of (seed, step), so a resumed run sees the same batches. The batch of an update is cut into
equal micro-batches, one for each process and accumulation step. A micro-batch decodes only its own clips, and together
the micro-batches are the same batch, however many there are.
"""

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.reading import AudioError
from pretrain.config import DataConfig
from pretrain.data.clips import Clips
from pretrain.data.companions import Companions
from pretrain.synth.sounds import computed_crop

MIX_DB = (-25.0, -8.0)
"""Range of the level of a mixed-in crop, relative to the crop that it is added to."""
MIN_LEVEL = 1e-5
"""Added to a level, which is 0 in silence."""
MIX_GROUP = 8
"""A crop's partner is one of about this many neighbours in the batch, so that a micro-batch need not decode others'."""
MAX_ATTEMPTS = 64
"""Other clips that are tried in place of a clip that cannot be decoded."""

COMPUTED_CLIP = -1
"""The number of a clip that is computed."""


class NoClipError(Exception):
    """None of the clips that were tried can be decoded."""


class Crops:
    """The crops of one batch; each is decoded once, when it is needed."""

    def __init__(
        self,
        clips: Clips,
        config: DataConfig,
        views: int,
        key: tuple[int, int],
        samples: int,
        drawn: np.ndarray,
        companions: Companions,
    ) -> None:
        """Describe a batch.

        Args:
            clips: the corpus.
            config: how crops are filled, mixed and amplified.
            views: crops of each clip.
            key: seed and step.
            samples: length of a crop.
            drawn: (count,) numbers of the clips of the batch, `COMPUTED_CLIP` for computed ones.
            companions: chooses clips for a crop that its own clip does not fill.
        """
        self.clips, self.config, self.views, self.key = clips, config, views, key
        self.samples, self.drawn, self.companions = samples, drawn, companions
        self.reads, self.failures = 0, dict[str, str]()
        self._crops: dict[tuple[int, int], np.ndarray] = {}

    def draw(self, random: np.random.Generator) -> None:
        """Draw the positions, gains and partners of all crops of the batch at once."""
        shape, config = (self.views, len(self.drawn)), self.config
        self.positions = random.random(shape)
        self.gains = 10 ** (random.uniform(config.min_gain_db, config.max_gain_db, shape) / 20)
        self.mix_gains = 10 ** (random.uniform(*MIX_DB, shape) / 20)
        self.partners = draw_partners(*shape, random)

    def rows(self, clips: range) -> tuple[Tensor, Tensor]:
        """(views * clips, S) waveforms of some clips of the batch, view by view, and their lengths."""
        order = [(view, clip) for view in range(self.views) for clip in clips]
        waveforms = torch.zeros(len(order), self.samples)
        lengths = torch.zeros(len(order), dtype=torch.long)
        for row, (view, clip) in enumerate(order):
            crop = self._crop(view, clip)
            lengths[row] = len(crop)
            if self.config.mix:
                crop = mix(crop, self._crop(*self.partners[view, clip]), self.mix_gains[view, clip])
            waveforms[row, : len(crop)] = torch.from_numpy(crop * np.float32(self.gains[view, clip]))
        return waveforms, lengths

    def starts(self, clips: range) -> Tensor:
        """(views * clips,) int64: the sample of its clip at which each row of `rows` begins, see `Batch.starts`."""
        drawn = self.drawn[clips.start : clips.stop]
        positions = self.positions[:, clips.start : clips.stop]
        repeated, recorded = self.config.short_clips == "repeat", drawn != COMPUTED_CLIP
        lengths = np.full(len(drawn), self.samples)  # so that a computed sound begins at 0
        lengths[recorded] = self.clips.lengths[drawn[recorded]]
        return torch.from_numpy(crop_starts(lengths, self.samples, positions, repeated).reshape(-1))

    def _crop(self, view: int, clip: int) -> np.ndarray:
        if (view, clip) not in self._crops:
            self._crops[view, clip] = self._fill(view, clip)
        return self._crops[view, clip]

    def _fill(self, view: int, clip: int) -> np.ndarray:
        """A crop of ``samples`` samples; with short_clips pad it may be shorter."""
        if self.drawn[clip] == COMPUTED_CLIP:
            return computed_crop(self.key, clip, view, self.samples)
        position = float(self.positions[view, clip])
        crop = self._read(int(self.drawn[clip]), self.samples, position, (clip,))
        if len(crop) >= self.samples or self.config.padded:
            return crop
        if self.config.short_clips == "repeat":
            return repeat(crop, self.samples, position)
        pieces, missing = [crop], self.samples - len(crop)
        while missing > 0:
            key = (clip, view, MAX_ATTEMPTS + len(pieces))
            random = np.random.default_rng((*self.key, *key))
            number = self.companions.beside(int(self.drawn[clip]), random)
            pieces.append(self._read(number, missing, random.random(), key))
            missing -= len(pieces[-1])
        return np.concatenate(pieces)

    def _read(self, number: int, count: int, position: float, key: tuple[int, ...]) -> np.ndarray:
        """A crop of a clip, or of another clip if it cannot be decoded; the same one whenever the batch is made."""
        for attempt in range(MAX_ATTEMPTS):
            self.reads += 1
            try:
                return self.clips.read(number, count, position)
            except AudioError as error:
                name = self.clips.name(number)
                self.failures[name] = str(error).removeprefix(f"{name}: ")
            random = np.random.default_rng((*self.key, *key, attempt))
            number = self.companions.any(random)
        raise NoClipError


def crop_starts(lengths: np.ndarray, samples: int, positions: np.ndarray, repeated: bool) -> np.ndarray:
    """Where crops begin in their clips, int64 in the shape of ``positions``.

    Args:
        lengths: (..., clips) samples of the clips.
        samples: length of a crop.
        positions: (..., clips) in [0, 1), see `Clips.read`.
        repeated: whether a clip that is shorter than the crop is repeated from any of its samples on, see `repeat`.
    """
    short = lengths if repeated else np.ones_like(lengths)
    choices = np.where(lengths < samples, short, lengths - samples + 1)
    starts: np.ndarray = (positions * choices).astype(np.int64)
    return starts


def draw_partners(views: int, count: int, random: np.random.Generator) -> np.ndarray:
    """(views, count, 2) the view and the clip of each crop's partner, which is of another clip nearby in the batch."""
    groups = max(1, count // MIX_GROUP)
    edges = np.arange(groups + 1) * count // groups
    group = edges.searchsorted(np.arange(count), side="right") - 1
    first, size = edges[group], np.diff(edges)[group]
    shift = 1 + (random.random((views, count)) * (size - 1)).astype(np.int64)
    clip = first + (np.arange(count) - first + shift) % size
    return np.stack([random.integers(views, size=clip.shape), clip], axis=-1)


def repeat(crop: np.ndarray, count: int, position: float) -> np.ndarray:
    """Repeat a short clip until it has ``count`` samples, beginning at ``position`` (0 to 1) in the clip."""
    return np.resize(np.roll(crop, -int(position * len(crop))), count)


def mix(crop: np.ndarray, partner: np.ndarray, mix_gain: float) -> np.ndarray:
    """Add ``partner`` at ``mix_gain`` times the level of ``crop``; a shorter partner is repeated."""
    level, partner_level = (np.sqrt(np.square(x).mean()) + MIN_LEVEL for x in (crop, partner))
    mixed: np.ndarray = crop + np.resize(partner, len(crop)) * np.float32(level / partner_level * mix_gain)
    return mixed

"""Batches of random crops. A batch is a pure function of (seed, step), so that a resumed run sees the same ones.

An update's batch is cut into equal parts, one for each process and accumulated step; a part decodes its own clips only,
and together the parts are the same batch however many there are.
"""

import numpy as np
import torch
from torch import Tensor

from maeast_upstream.audio.reading import AudioError
from pretrain.config import DataConfig
from pretrain.data.clips import Clips

MIX_DB = (-25.0, -8.0)
"""Level of a mixed-in crop below the crop that it is added to."""


LEAST_LEVEL = 1e-5
"""Added to a level: silence has none."""


MIX_GROUP = 8
"""A crop's partner is one of so many neighbours in the batch, so that a part need not decode other parts' clips."""


ATTEMPTS = 64
"""Other clips that are tried in place of one that cannot be decoded."""


class NoClipError(Exception):
    """Whatever is tried cannot be decoded."""


class Crops:
    """The crops of one batch; each is decoded when it is asked for, once."""

    def __init__(
        self,
        clips: Clips,
        config: DataConfig,
        views: int,
        key: tuple[int, int],
        samples: int,
        drawn: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        self.clips, self.config, self.views, self.key = clips, config, views, key
        self.samples, self.drawn, self.weights = samples, drawn, weights
        self.reads, self.bad = 0, dict[str, str]()
        self._made: dict[tuple[int, int], np.ndarray] = {}

    def draw(self, random: np.random.Generator) -> None:
        """All that chance decides, for the whole batch at once."""
        shape, config = (self.views, len(self.drawn)), self.config
        self.places = random.random(shape)
        self.gains = 10 ** (random.uniform(config.min_gain_db, config.max_gain_db, shape) / 20)
        self.below = 10 ** (random.uniform(*MIX_DB, shape) / 20)
        self.partners = draw_partners(*shape, random)

    def rows(self, own: range) -> tuple[Tensor, Tensor]:
        """(views * clips, S) waveforms of the clips ``own`` and their lengths."""
        order = [(view, clip) for view in range(self.views) for clip in own]
        out = torch.zeros(len(order), self.samples)
        lengths = torch.zeros(len(order), dtype=torch.long)
        for number, (view, clip) in enumerate(order):
            crop = self._crop(view, clip)
            lengths[number] = len(crop)
            if self.config.mix:
                crop = mix(crop, self._crop(*self.partners[view, clip]), self.below[view, clip])
            out[number, : len(crop)] = torch.from_numpy(crop * np.float32(self.gains[view, clip]))
        return out, lengths

    def _crop(self, view: int, clip: int) -> np.ndarray:
        if (view, clip) not in self._made:
            self._made[view, clip] = self._fill(view, clip)
        return self._made[view, clip]

    def _fill(self, view: int, clip: int) -> np.ndarray:
        """A crop of ``samples``, or with short pad a shorter one."""
        place = float(self.places[view, clip])
        crop = self._read(int(self.drawn[clip]), self.samples, place, (clip,))
        if len(crop) >= self.samples or self.config.short == "pad":
            return crop
        if self.config.short == "repeat":
            return repeat(crop, self.samples, place)
        pieces, missing = [crop], self.samples - len(crop)
        while missing > 0:
            key = (clip, view, ATTEMPTS + len(pieces))
            random = np.random.default_rng((*self.key, *key))
            pieces.append(
                self._read(
                    int(draw_clips(self.weights, 1, random)[0]),
                    missing,
                    random.random(),
                    key,
                )
            )
            missing -= len(pieces[-1])
        return np.concatenate(pieces)

    def _read(self, number: int, count: int, place: float, key: tuple[int, ...]) -> np.ndarray:
        """A crop of a clip, or of another one where it cannot be decoded, the same one at every try."""
        for attempt in range(ATTEMPTS):
            self.reads += 1
            try:
                return self.clips.read(number, count, place)
            except AudioError as error:
                name = self.clips.name(number)
                self.bad[name] = str(error).removeprefix(f"{name}: ")
            random = np.random.default_rng((*self.key, *key, attempt))
            number = int(draw_clips(self.weights, 1, random)[0])
        raise NoClipError


def clip_weights(kinds: np.ndarray, power: float) -> np.ndarray:
    """How often each clip is drawn, so that a kind's share follows its number of clips to ``power``."""
    _, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    weights: np.ndarray = counts[kind] ** (power - 1.0)
    return weights


def draw_clips(weights: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """``count`` numbers of clips, each drawn in proportion to its weight."""
    cumulative = weights.cumsum()
    drawn: np.ndarray = cumulative.searchsorted(random.random(count) * cumulative[-1], side="right")
    return drawn.clip(max=len(weights) - 1)


def draw_partners(views: int, count: int, random: np.random.Generator) -> np.ndarray:
    """(views, count, 2): for each crop the view and clip of a crop of another clip, nearby in the batch."""
    groups = max(1, count // MIX_GROUP)
    edges = np.arange(groups + 1) * count // groups
    group = edges.searchsorted(np.arange(count), side="right") - 1
    first, size = edges[group], np.diff(edges)[group]
    shift = 1 + (random.random((views, count)) * (size - 1)).astype(np.int64)
    clip = first + (np.arange(count) - first + shift) % size
    return np.stack([random.integers(views, size=clip.shape), clip], axis=-1)


def repeat(crop: np.ndarray, count: int, place: float) -> np.ndarray:
    """A short clip goes round until it is full, from a random place on."""
    return np.resize(np.roll(crop, -int(place * len(crop))), count)


def mix(crop: np.ndarray, partner: np.ndarray, below: float) -> np.ndarray:
    """Add ``partner`` at ``below`` times the level of ``crop``; a shorter one goes round."""
    level, its = (np.sqrt(np.square(x).mean()) + LEAST_LEVEL for x in (crop, partner))
    mixed: np.ndarray = crop + np.resize(partner, len(crop)) * np.float32(level / its * below)
    return mixed

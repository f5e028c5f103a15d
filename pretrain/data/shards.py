"""Batches streamed from WebDataset tar shards, local or remote: shuffled, shared out over processes and workers.

Not a function of the step: a resumed run draws a fresh shuffle.
"""

import importlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from maeast_upstream.audio.reading import AUDIO_SUFFIXES, AudioError, duration_ms, read_audio
from maeast_upstream.storage.remote import open_remote
from pretrain.config import DataConfig
from pretrain.data.batches import Batch, BatchSharding, crop_shape
from pretrain.data.clips import first_sample, read_crop
from pretrain.data.crops import MIX_DB, draw_partners, mix, repeat

logger = logging.getLogger(__name__)

WHOLE_MS = 60_000
"""A clip up to this length is decoded once and cut for all its views."""


def find_shards(corpus: str) -> list[str]:
    """A folder's ``*.tar``, or addresses with WebDataset's notation ({000..999}, a::b); empty if it is neither."""
    folder = Path(corpus)
    if folder.is_dir():
        return [str(path) for path in sorted(folder.glob("*.tar"))]
    if not (corpus.endswith(".tar") or corpus.startswith("pipe:") or ".tar" in corpus):
        return []
    shards: list[str] = _webdataset().shardlists.expand_urls(corpus)
    for shard in shards:
        if not urlparse(shard).scheme and not Path(shard).is_file():
            raise ValueError(f"corpus {corpus}: no such shard: {shard}")
    return shards


class ShardBatches(IterableDataset[Batch]):
    """An endless stream of this process's parts of batches."""

    def __init__(
        self,
        shards: list[str],
        config: DataConfig,
        views: int,
        seed: tuple[int, ...],
        parts: BatchSharding | None = None,
    ) -> None:
        """``seed`` must be another one at each start."""
        _webdataset()
        self.shards, self.config, self.views, self.seed = shards, config, views, seed
        self.parts = parts or BatchSharding()

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        stream = Stream(self, self.parts.rank * workers + worker, self.parts.processes * workers)
        accumulate = self.parts.accumulate
        number = worker  # the loader takes a batch from each worker in turn
        while True:
            update, part = divmod(number, accumulate)
            shape = crop_shape(
                self.config,
                self.parts.number,
                np.random.default_rng((*self.seed, update)),
            )
            yield stream.batch(*shape, part)
            if stream.ended:
                return
            number += workers


class Stream:
    """What one worker reads."""

    def __init__(self, batches: ShardBatches, reader: int, readers: int) -> None:
        self.config, self.views, self.parts = (
            batches.config,
            batches.views,
            batches.parts,
        )
        self.shards, self.seed = batches.shards, batches.seed
        self.reader, self.readers = reader, readers
        self.random = np.random.default_rng((*self.seed, 0, reader))
        self.reads, self.passed, self.ended = 0, 0, False
        self.bad: dict[str, str] = {}
        self._shard = ""
        self._members = iter(self._shuffled())

    def batch(self, samples: int, count: int, part: int) -> Batch:
        """The next one; without rows at the end, which comes when no shard holds a clip."""
        own = self.parts.clips(part, count)
        names: list[str] = []
        clips: list[np.ndarray] = []
        while len(clips) < len(own) and not self.ended:
            name, crops = self._next(samples)
            if crops is not None:
                names.append(name)
                clips.append(crops)
        if self.ended:
            rows = torch.zeros(0, samples)
        else:
            rows = torch.from_numpy(self._augment(np.stack(clips, axis=1)).reshape(-1, samples))
        reads, bad = self.reads, tuple(self.bad.items())
        self.reads, self.bad = 0, {}
        lengths = torch.full((len(rows),), samples)
        return Batch(rows, lengths, own.start, count, tuple(names), reads, bad)

    def _augment(self, crops: np.ndarray) -> np.ndarray:
        """(views, clips, S), mixed and with gains."""
        views, clips = crops.shape[:2]
        if self.config.mix and clips > 1:
            partners = draw_partners(views, clips, self.random)
            below = 10 ** (self.random.uniform(*MIX_DB, (views, clips)) / 20)
            plain = crops.copy()
            for place in np.ndindex(views, clips):
                crops[place] = mix(plain[place], plain[tuple(partners[place])], float(below[place]))
        gains = 10 ** (self.random.uniform(self.config.min_gain_db, self.config.max_gain_db, (views, clips, 1)) / 20)
        return crops * gains.astype(np.float32)

    def _next(self, samples: int) -> tuple[str, np.ndarray | None]:
        """Name and (views, samples) of the next clip; None where it cannot be decoded."""
        member = next(self._members, None)
        if member is None:
            self.ended = True
            return "", None
        self.reads += 1
        name = f"{member['__url__']}/{member['fname']}"
        try:
            return name, np.stack([self._fill(crop, samples) for crop in self._crops(member["data"], samples)])
        except AudioError as error:
            self.bad[name] = str(error).removeprefix("stream: ")
            return name, None

    def _crops(self, data: bytes, samples: int) -> Iterator[np.ndarray]:
        source = io.BytesIO(data)
        if duration_ms(source) > WHOLE_MS:
            for place in self.random.random(self.views):
                yield read_crop(source, samples, float(place))
            return
        source.seek(0)
        whole = read_audio(source)
        for place in self.random.random(self.views):
            first = first_sample(len(whole), samples, float(place))
            yield whole[first : first + samples]

    def _fill(self, crop: np.ndarray, samples: int) -> np.ndarray:
        if len(crop) >= samples:
            return crop
        if self.config.short == "repeat":
            return repeat(crop, samples, self.random.random())
        pieces, missing = [crop], samples - len(crop)
        while missing > 0:
            member = next(self._members, None)
            if member is None:
                raise AudioError("no clip to join with")
            self.reads += 1
            try:
                pieces.append(read_crop(io.BytesIO(member["data"]), missing, self.random.random()))
            except AudioError as error:
                self.bad[f"{member['__url__']}/{member['fname']}"] = str(error).removeprefix("stream: ")
                continue
            missing -= len(pieces[-1])
        return np.concatenate(pieces)

    def _shuffled(self) -> Iterator[dict[str, Any]]:
        """Members of the shards, drawn from a buffer."""
        wds = _webdataset()
        streams = wds.tariterators.url_opener(self._order(), handler=self._note)
        files = wds.tariterators.tar_file_expander(streams, handler=self._note, select_files=is_audio, eof_value=None)
        size = self.config.shuffle_clips
        shuffle = wds.filters.shuffle(size, initial=size, seed=int(self.random.integers(2**31)))
        yield from shuffle(self._counted(files))

    def _order(self) -> Iterator[dict[str, str]]:
        """Shards, pass after pass in another order, each reader's share of it; all where there are too few to share."""
        number = 0
        while True:
            before = self.passed
            order = np.random.default_rng((*self.seed, 1, number)).permutation(len(self.shards))
            if len(order) < self.readers:
                order = self.random.permutation(len(self.shards))
            else:
                order = order[self.reader :: self.readers]
            for shard in order:
                self._shard = self.shards[shard]
                yield {"url": self._shard}
            number += 1
            if self.passed == before:
                return  # a whole pass without a clip

    def _counted(self, files: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for file in files:
            self.passed += 1
            yield file

    def _note(self, error: Exception) -> bool:
        """Count the shard that webdataset could not open or read to its end, and go on."""
        reason = str(error.args[0] if error.args else type(error).__name__).split(" @ ")[0]
        self.bad[self._shard] = f"not a whole tar file, or not to be read ({reason})"
        return True


def is_audio(name: str) -> bool:
    """Whether a member of a shard is a clip."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES  # noqa: PTH122  (names in tars are no paths here)


def _open_by_fsspec(url: str, mode: str = "rb", bufsize: int = 8192, **_: object) -> BinaryIO:
    return open_remote(url)


def _webdataset() -> Any:
    """The library, with fsspec for the addresses that it has no opener for; ImportError names the extra."""
    try:
        import webdataset

        openers = importlib.import_module("webdataset.gopen").gopen_schemes  # webdataset.gopen itself is a function
    except ImportError as error:
        raise ImportError("shards need webdataset: pip install 'maeast-upstream[pretrain]'") from error
    for scheme in ("s3", "gcs", "abfs", "hdfs", "memory"):
        openers.setdefault(scheme, _open_by_fsspec)
    return webdataset

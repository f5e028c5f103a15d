"""Batches streamed from local or remote WebDataset tar shards, shuffled and divided among processes and workers.

They are not a function of the step: a resumed run draws a new shuffle.
"""

import importlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from maeast_upstream.audio.files import looks_like_audio
from maeast_upstream.audio.reading import AudioError, duration_ms, read_audio
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.remote import open_remote
from pretrain.config import DataConfig
from pretrain.data.batches import Batch, BatchSharding, crop_shape
from pretrain.data.clips import first_sample, read_crop
from pretrain.data.crops import MIX_DB, draw_partners, mix, repeat

logger = logging.getLogger(__name__)

MAX_WHOLE_MS = 60_000
"""A clip up to this length is decoded once for all its views."""


def find_shards(corpus: str) -> list[str]:
    """The ``*.tar`` files of a folder, or addresses in WebDataset's notation ({000..999}, a::b); empty if neither."""
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
    """An endless stream of this process's micro-batches."""

    def __init__(
        self,
        shards: list[str],
        config: DataConfig,
        views: int,
        seed: tuple[int, ...],
        sharding: BatchSharding | None = None,
    ) -> None:
        """Describe the stream; ``seed`` must differ at each start of a run."""
        _webdataset()
        self.shards, self.config, self.views, self.seed = shards, config, views, seed
        self.sharding = sharding or BatchSharding()

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        sharding = self.sharding
        stream = Stream(self, sharding.rank * workers + worker, sharding.processes * workers)
        number = worker  # the loader takes a micro-batch from each worker in turn
        while True:
            step, accumulation_step = divmod(number, sharding.accumulation_steps)
            random = np.random.default_rng((*self.seed, step))
            yield stream.batch(*crop_shape(self.config, sharding.number, random), accumulation_step)
            if stream.ended:
                return
            number += workers


class Stream:
    """The clips that one worker reads."""

    def __init__(self, batches: ShardBatches, reader: int, readers: int) -> None:
        self.config, self.views, self.sharding = batches.config, batches.views, batches.sharding
        self.shards, self.seed = batches.shards, batches.seed
        self.reader, self.readers = reader, readers
        self.random = np.random.default_rng((*self.seed, 0, reader))
        self.reads, self.passed, self.ended = 0, 0, False
        self.failures: dict[str, str] = {}
        self._shard = ""
        self._members = iter(self._shuffled())

    def batch(self, samples: int, count: int, accumulation_step: int) -> Batch:
        """The next micro-batch; it has no rows if a whole pass over the shards found no clip."""
        local = self.sharding.clips(accumulation_step, count)
        names: list[str] = []
        clips: list[np.ndarray] = []
        while len(clips) < len(local) and not self.ended:
            name, crops = self._next(samples)
            if crops is not None:
                names.append(name)
                clips.append(crops)
        if self.ended:
            rows = torch.zeros(0, samples)
        else:
            rows = torch.from_numpy(self._augment(np.stack(clips, axis=1)).reshape(-1, samples))
        reads, failures = self.reads, tuple(self.failures.items())
        self.reads, self.failures = 0, {}
        lengths = torch.full((len(rows),), samples)
        return Batch(rows, lengths, local.start, count, tuple(names), reads, failures)

    def _augment(self, crops: np.ndarray) -> np.ndarray:
        """(views, clips, S) crops -> the same, mixed and amplified."""
        views, clips = crops.shape[:2]
        if self.config.mix and clips > 1:
            partners = draw_partners(views, clips, self.random)
            mix_gains = 10 ** (self.random.uniform(*MIX_DB, (views, clips)) / 20)
            plain = crops.copy()
            for index in np.ndindex(views, clips):
                crops[index] = mix(plain[index], plain[tuple(partners[index])], float(mix_gains[index]))
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
            self.failures[name] = str(error).removeprefix("stream: ")
            return name, None

    def _crops(self, data: bytes, samples: int) -> Iterator[np.ndarray]:
        source = io.BytesIO(data)
        if duration_ms(source) > MAX_WHOLE_MS:
            for position in self.random.random(self.views):
                yield read_crop(source, samples, float(position))
            return
        source.seek(0)
        whole = read_audio(source)
        for position in self.random.random(self.views):
            first = first_sample(len(whole), samples, float(position))
            yield whole[first : first + samples]

    def _fill(self, crop: np.ndarray, samples: int) -> np.ndarray:
        if len(crop) >= samples:
            return crop
        if self.config.short_clips == "repeat":
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
                self.failures[f"{member['__url__']}/{member['fname']}"] = str(error).removeprefix("stream: ")
                continue
            missing -= len(pieces[-1])
        return np.concatenate(pieces)

    def _shuffled(self) -> Iterator[dict[str, Any]]:
        """Members of the shards in the order of a shuffle buffer."""
        wds = _webdataset()
        streams = wds.tariterators.url_opener(self._order(), handler=self._note)
        files = wds.tariterators.tar_file_expander(streams, handler=self._note, select_files=is_audio, eof_value=None)
        size = self.config.shuffle_clips
        shuffle = wds.filters.shuffle(size, initial=size, seed=int(self.random.integers(2**31)))
        yield from shuffle(self._counted(files))

    def _order(self) -> Iterator[dict[str, str]]:
        """This reader's shards, in another order in each pass; all shards if there are fewer than readers."""
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
                return  # a whole pass found no clip

    def _counted(self, files: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for file in files:
            self.passed += 1
            yield file

    def _note(self, error: Exception) -> bool:
        """Note a shard that webdataset could not open or read to its end; True lets it continue."""
        reason = str(error.args[0] if error.args else type(error).__name__).split(" @ ")[0]
        self.failures[self._shard] = f"not a whole tar file, or not to be read ({reason})"
        return True


def is_audio(name: str) -> bool:
    """Whether a member of a shard is a clip, by its name."""
    return looks_like_audio(name)


def _open_by_fsspec(url: str, mode: str = "rb", bufsize: int = 8192, **_: object) -> BinaryIO:
    return open_remote(url)


def _webdataset() -> Any:
    """Import webdataset, with fsspec for addresses that it cannot open itself; ImportError names the extra."""
    try:
        import webdataset

        openers = importlib.import_module("webdataset.gopen").gopen_schemes  # webdataset.gopen itself is a function
    except ImportError as error:
        raise ImportError(f"shards need webdataset: {install_extra('pretrain')}") from error
    for scheme in ("s3", "gcs", "abfs", "hdfs", "memory"):
        openers.setdefault(scheme, _open_by_fsspec)
    return webdataset

"""Batches streamed from local or remote WebDataset tar shards, shuffled and divided among processes and workers.

They are not a function of the step: a resumed run draws a new shuffle.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from maeast_upstream.audio.files import AUDIO_SUFFIXES
from maeast_upstream.audio.reading import AudioError, duration_ms, read_audio
from maeast_upstream.data.tars import members_of, read_member
from maeast_upstream.display import without_secrets
from maeast_upstream.messages import install_extra
from maeast_upstream.storage.remote import is_remote, open_remote
from pretrain.config import DataConfig
from pretrain.data.batches import Batch, BatchSharding
from pretrain.data.clips import first_sample, read_crop
from pretrain.data.crops import MIX_DB, draw_partners, mix, repeat
from pretrain.data.listing import list_shards
from pretrain.data.shapes import crop_shape

logger = logging.getLogger(__name__)

MAX_WHOLE_MS = 60_000
"""A clip up to this length is decoded once for all its views."""
MAX_IN_VAIN = 1000
"""Clips in a row that cannot be decoded, after which a reader gives up."""
BLOCK_BYTES = 1 << 20
"""Bytes that are skipped at once in remote files."""


def find_shards(corpus: str) -> list[str]:
    """List the tar files of a folder, or addresses in WebDataset's notation ({000..999}, a::b).

    The name of a file is taken as it is: only what is no file may be an address or the notation of several.

    Returns:
        Paths and addresses; none if ``corpus`` is neither.

    Raises:
        ValueError: A shard is not there, or is a command (``pipe:``), which is never run.
    """
    path = Path(corpus)
    if path.is_dir():
        return [str(shard) for shard in list_shards(path)]
    if path.is_file():
        return [corpus] if path.suffix == ".tar" else []
    if corpus.startswith("pipe:"):
        raise ValueError(f"corpus {corpus}: commands are not run; give files, or addresses such as https:// or s3://")
    if ".tar" not in corpus:
        return []
    shards: list[str] = _webdataset().shardlists.expand_urls(corpus)
    for shard in shards:
        if not is_remote(shard) and not Path(shard).is_file():
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
        self._in_vain = 0
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
        starts = torch.zeros_like(lengths)
        return Batch(rows, lengths, local.start, count, tuple(names), reads, failures, starts, ())

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
        name, content = member
        try:
            crops = np.stack([self._fill(crop, samples) for crop in self._crops(content, samples)])
        except AudioError as error:
            self.failures[name] = str(error).removeprefix("stream: ")
            self._in_vain += 1
            self.ended = self._in_vain >= MAX_IN_VAIN
            return name, None
        self._in_vain = 0
        return name, crops

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
                pieces.append(read_crop(io.BytesIO(member[1]), missing, self.random.random()))
            except AudioError as error:
                self.failures[member[0]] = str(error).removeprefix("stream: ")
                continue
            missing -= len(pieces[-1])
        return np.concatenate(pieces)

    def _shuffled(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the members of the shards, in the order of a shuffle buffer."""
        size = self.config.shuffle_clips
        shuffle = _webdataset().filters.shuffle(size, initial=size, seed=int(self.random.integers(2**31)))
        yield from shuffle(content for shard in self._order() for content in self._read(shard))

    def _order(self) -> Iterator[str]:
        """This reader's shards, in another order in each pass; all shards if there are fewer than readers.

        After a pass without a clip come the shards of the other readers; it ends if these have none, too.
        """
        number = 0
        while True:
            before = self.passed
            order = np.random.default_rng((*self.seed, 1, number)).permutation(len(self.shards))
            if len(order) < self.readers:
                order = self.random.permutation(len(self.shards))
            else:
                order = order[self.reader :: self.readers]
            yield from (self.shards[shard] for shard in order)
            if self.passed == before:
                yield from self.shards
            if self.passed == before:
                return
            number += 1

    def _read(self, shard: str) -> Iterator[tuple[str, bytes]]:
        """Name and content of each member of a shard; what cannot be read is noted as a failure."""
        shown = without_secrets(shard)
        try:
            with _open(shard) as file:
                for member in members_of(file, AUDIO_SUFFIXES):
                    name = f"{shown}/{member.name}"
                    try:
                        content = read_member(file, member)
                    except ValueError as error:
                        self._note(name, str(error))
                        continue
                    self.passed += 1
                    yield name, content
        except (OSError, ValueError, EOFError) as error:
            reason = without_secrets(str(getattr(error, "strerror", None) or error), shard)
            self._note(shown, f"not a whole tar file, or not to be read ({' '.join(reason.split())})")

    def _note(self, name: str, reason: str) -> None:
        """Count what could not be read."""
        self.reads += 1
        self.failures[name] = reason


class Forward(io.BufferedIOBase):
    """A remote file that is read forward only, because some servers cannot give a part of a file.

    Whatever error a protocol raises becomes an OSError.
    """

    def __init__(self, url: str) -> None:
        self._position = 0
        with _as_os_errors():
            self._file = open_remote(url)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Skip to an offset; the end is not known and counts as infinitely far away."""
        if whence == os.SEEK_END:
            return sys.maxsize
        while self._position < offset and self._next(min(offset - self._position, BLOCK_BYTES)):
            pass
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Read ``size`` bytes, or fewer at the end."""
        pieces, missing = [], size or 0
        while missing > 0 and (piece := self._next(missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _next(self, size: int) -> bytes:
        with _as_os_errors():
            piece = self._file.read(size)
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """Close the remote file."""
        self._file.close()
        super().close()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:  # each protocol has errors of its own
        raise OSError(f"{type(error).__name__}: {error}") from error


def _open(shard: str) -> BinaryIO:
    return cast(BinaryIO, Forward(shard)) if is_remote(shard) else Path(shard).open("rb")


def _webdataset() -> Any:
    """Import webdataset; ImportError names the extra."""
    try:
        import webdataset
    except ImportError as error:
        raise ImportError(f"shards need webdataset: {install_extra('pretrain')}") from error
    return webdataset

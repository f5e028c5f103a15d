"""One package -> its clips, encoded, kept in two files from which every later run goes on."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.storage.atomic import replacing
from pretrain.corpora.corpus import pieces
from pretrain.corpora.debian.archives import expand, is_sound
from pretrain.corpora.debian.deb import Room, Source, read_deb
from pretrain.corpora.debian.fetch import version_of
from pretrain.corpora.debian.packages import Package
from pretrain.corpora.debian.salvage import salvage

FORMAT = 1
"""Raise it when the clips of the same package would come out otherwise."""
MUSIC_SECONDS = 45.0
"""An effect that is longer counts as music: game folders mix both."""


@dataclass(frozen=True)
class Clip:
    """A clip as it stands in a finished package."""

    package: str
    source: str
    part: int
    """Number among the clips of the source, from 0."""
    seconds: float
    kind: str
    digest: str
    """SHA-256 of the source's bytes."""
    fingerprint: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """64 hexadecimal digits by which clips are ordered; the same whatever else is in the corpus."""
        return hashlib.sha256(f"{self.package}|{self.source}|{self.part}".encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Finished:
    """A package's clips and the file that their bytes lie in."""

    package: Package
    version: str
    clips: list[Clip]
    dropped: dict[str, int]
    """Files left out, by reason."""
    data: Path


def convert(package: Package, deb: Path, work: Path, excluded: frozenset[str], pool: DecodePool) -> Finished:
    """Convert a package, or read what an earlier run with the same list and settings left.

    Raises:
        ArchiveError: a .deb that cannot be read or is too large.
    """
    folder = work / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"{package.package}.{_tag(package, deb, excluded)}"
    table, data = base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}.bin")
    if not table.exists():
        scratch = work / "unpacked" / package.package
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            sources = _unpack(package, deb, scratch)
            with replacing(data) as part, part.open("wb") as file:
                clips, dropped = _convert_sources(package, sources, excluded, pool, file)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        with replacing(table) as part:
            part.write_text(json.dumps({"clips": [asdict(clip) for clip in clips], "dropped": dropped}))
    found = json.loads(table.read_text())
    return Finished(package, version_of(deb), [Clip(**clip) for clip in found["clips"]], found["dropped"], data)


def _tag(package: Package, deb: Path, excluded: frozenset[str]) -> str:
    """Of everything that decides about the clips."""
    state = [FORMAT, asdict(package), version_of(deb), deb.stat().st_size, sorted(excluded)]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:12]


def _unpack(package: Package, deb: Path, scratch: Path) -> Iterator[Source]:
    room = Room(scratch, package.package)
    for source in read_deb(deb, room, is_sound):
        yield from expand(source, room, package.wants)


def _convert_sources(
    package: Package, sources: Iterator[Source], excluded: frozenset[str], pool: DecodePool, file: BinaryIO
) -> tuple[list[Clip], dict[str, int]]:
    clips: list[Clip] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    known: dict[str, Source] = {}

    def wanted() -> Iterator[Segment]:
        for source in sources:
            if source.digest in excluded:
                dropped["excluded"] += 1
            elif source.digest in seen:
                dropped["repeat"] += 1
            else:
                seen.add(source.digest)
                known[str(source.path)] = source
                yield Segment(str(source.path))

    for segment, result in pool.decode(wanted()):
        source = known.pop(segment.path)
        samples = salvage(source.path, result)
        source.path.unlink()  # so that a large package does not lie on disk twice
        if samples is None:
            dropped["unreadable"] += 1
            continue
        encoded = _encode(samples)
        dropped["silent or too short"] += not encoded
        kind = package.kind_of(source.name)
        if kind == "effect" and sum(length for _, length, _, _ in encoded) > MUSIC_SECONDS * SAMPLE_RATE:
            kind = "music"
        for part, length, print_, data in encoded:
            seconds = round(length / SAMPLE_RATE, 3)
            place = (file.tell(), len(data))
            clips.append(Clip(package.package, source.name, part, seconds, kind, source.digest, print_, *place))
            file.write(data)
    file.flush()
    os.fsync(file.fileno())
    return clips, {reason: count for reason, count in sorted(dropped.items()) if count}


def _encode(samples: np.ndarray) -> list[tuple[int, int, str, bytes]]:
    """Number, samples, fingerprint and bytes of each clip."""
    cut = enumerate(pieces.cut(samples))
    return [(part, len(piece), pieces.fingerprint(piece), pieces.encode(piece)) for part, piece in cut]

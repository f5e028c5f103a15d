"""Converts a package to encoded clips, and keeps them in two files that later runs read."""

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
from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.storage.atomic import replacing
from pretrain.corpora.corpus import pieces
from pretrain.corpora.debian.archives import expand, is_sound
from pretrain.corpora.debian.deb import Source, UnpackFolder, read_deb
from pretrain.corpora.debian.fetch import version_of
from pretrain.corpora.debian.packages import Package

FORMAT = 1
"""Increased whenever the same package gives other clips, so that kept ones are not used."""
MUSIC_SECONDS = 45.0
"""A longer effect counts as music, since folders of games mix both."""


@dataclass(frozen=True)
class CorpusClip:
    """A clip of a converted package."""

    package: str
    source: str
    part: int
    """Number of the clip in its source file, from 0."""
    seconds: float
    kind: str
    digest: str
    """SHA-256 of the source file."""
    fingerprint: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """64 hexadecimal digits that order clips and do not depend on the rest of the corpus."""
        return hashlib.sha256(f"{self.package}|{self.source}|{self.part}".encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class ConvertedPackage:
    """The clips of a package and the file that holds their bytes."""

    package: Package
    version: str
    clips: list[CorpusClip]
    dropped: dict[str, int]
    """Number of files that were left out, by reason."""
    data: Path


def convert(package: Package, deb: Path, work: Path, excluded: frozenset[str], pool: DecodePool) -> ConvertedPackage:
    """Convert a package, or read the result of an earlier run with the same list and settings.

    Raises:
        ArchiveError: The .deb cannot be read or is too large.
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
    content = json.loads(table.read_text())
    clips = [CorpusClip(**clip) for clip in content["clips"]]
    return ConvertedPackage(package, version_of(deb), clips, content["dropped"], data)


def _tag(package: Package, deb: Path, excluded: frozenset[str]) -> str:
    """A digest of everything that the clips depend on."""
    state = [FORMAT, asdict(package), version_of(deb), deb.stat().st_size, sorted(excluded)]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:12]


def _unpack(package: Package, deb: Path, scratch: Path) -> Iterator[Source]:
    folder = UnpackFolder(scratch, package.package)
    for source in read_deb(deb, folder, is_sound):
        yield from expand(source, folder, package.includes)


def _convert_sources(
    package: Package, sources: Iterator[Source], excluded: frozenset[str], pool: DecodePool, file: BinaryIO
) -> tuple[list[CorpusClip], dict[str, int]]:
    clips: list[CorpusClip] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    pending: dict[str, Source] = {}

    def new_sources() -> Iterator[Segment]:
        for source in sources:
            if source.digest in excluded:
                dropped["excluded"] += 1
            elif source.digest in seen:
                dropped["repeat"] += 1
            else:
                seen.add(source.digest)
                pending[str(source.path)] = source
                yield Segment(str(source.path))

    for segment, result in pool.decode(new_sources()):
        source = pending.pop(segment.path)
        source.path.unlink()  # so that a large package is not on disk twice
        if isinstance(result, AudioError):
            dropped["unreadable"] += 1
            continue
        encoded = _encode(result)
        dropped["silent or too short"] += not encoded
        kind = package.kind_of(source.name)
        if kind == "effect" and sum(length for _, length, _, _ in encoded) > MUSIC_SECONDS * SAMPLE_RATE:
            kind = "music"
        for part, length, fingerprint, data in encoded:
            seconds = round(length / SAMPLE_RATE, 3)
            offset, size = file.tell(), len(data)
            clip = CorpusClip(
                package.package, source.name, part, seconds, kind, source.digest, fingerprint, offset, size
            )
            clips.append(clip)
            file.write(data)
    file.flush()
    os.fsync(file.fileno())
    return clips, {reason: count for reason, count in sorted(dropped.items()) if count}


def _encode(samples: np.ndarray) -> list[tuple[int, int, str, bytes]]:
    """Number, length in samples, fingerprint and encoded bytes of each clip."""
    cut = enumerate(pieces.cut(samples))
    return [(part, len(piece), pieces.sound_fingerprint(piece), pieces.encode_opus(piece)) for part, piece in cut]

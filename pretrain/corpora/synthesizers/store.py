"""Encodes synthesized sounds and keeps them in files that later runs read."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.storage.atomic import replacing
from pretrain.corpora.corpus import pieces
from pretrain.corpora.corpus.clips import ConvertedPackage, CorpusClip
from pretrain.corpora.debian.packages import Package

FORMAT = 1
"""Increased whenever the same programs give other clips, so that kept ones are not used."""
PREFIX = "synthesized"
"""The names of all sounds begin with it; the rules of labels know them by it."""


@dataclass(frozen=True)
class Sound:
    """A synthesized sound."""

    source: str
    """Its name, from which its labels follow."""
    samples: np.ndarray
    """(S,) float32 samples at 16 kHz; none where the synthesizer made no sound of it."""


def store(
    package: Package, version: str, state: list[object], make: Callable[[Path], Iterator[Sound]], work: Path
) -> ConvertedPackage:
    """Make and encode the sounds of a package, or read the result of an earlier run.

    Args:
        package: the package of the words or the synthesizer.
        version: those of the programs, which is written into the manifest.
        state: what else the sounds depend on.
        make: yields the sounds; gets a scratch folder.
        work: the folder of kept results.
    """
    (work / "clips").mkdir(parents=True, exist_ok=True)
    tag = hashlib.sha256(json.dumps([FORMAT, asdict(package), version, *state]).encode()).hexdigest()[:12]
    table, data = work / "clips" / f"{package.package}.{tag}.json", work / "clips" / f"{package.package}.{tag}.bin"
    if not (table.exists() and data.exists()):
        scratch = work / "scratch" / package.package
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            with replacing(data) as part:
                clips, dropped = _encode(package, make(scratch), part)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        with replacing(table) as part:
            part.write_text(json.dumps({"clips": [asdict(clip) for clip in clips], "dropped": dropped}))
    content = json.loads(table.read_text())
    return ConvertedPackage(
        package, version, [CorpusClip(**clip) for clip in content["clips"]], content["dropped"], data
    )


def _encode(package: Package, sounds: Iterator[Sound], path: Path) -> tuple[list[CorpusClip], dict[str, int]]:
    clips: list[CorpusClip] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    with path.open("wb") as file:
        for sound in sounds:
            whole = list(pieces.cut(sound.samples)) if len(sound.samples) else []
            if len(whole) != 1:
                dropped["silent or too short"] += 1
                continue
            digest = hashlib.sha256(whole[0].tobytes()).hexdigest()
            if digest in seen:
                dropped["repeat"] += 1
                continue
            seen.add(digest)
            encoded = pieces.encode_opus(whole[0])
            seconds = round(len(whole[0]) / SAMPLE_RATE, 3)
            place = {"offset": file.tell(), "size": file.write(encoded)}
            clips.append(
                CorpusClip(package.package, sound.source, 0, seconds, package.kind, digest, digest[:24], **place)
            )
    return clips, dict(dropped)

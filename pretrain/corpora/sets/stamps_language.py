"""Names of pictures spoken in nine languages. The label is the language; splits differ in their pictures.

Each clip gets its own simulated channel, so that the recording does not give the language away.
"""

import re
from collections import Counter, defaultdict
from dataclasses import replace

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.corpora.debian.deb import Source
from pretrain.corpora.sets.channel import own_channel
from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    scale_to_peak,
    sha256_of,
    split_of,
)

NAME = re.compile(r"(.*)_desc_(fr|ro|ru|ca|bg|es|be|el|da)\.(?:ogg|wav)")
QUOTA = {"train": 60, "valid": 20, "test": 30}


def _select(_: str, name: str) -> bool:
    return NAME.fullmatch(name) is not None and "alphabets" not in name


def _build(files: SetFiles) -> list[LabelledClip]:
    pictures: dict[str, dict[str, tuple[str, Source]]] = defaultdict(dict)
    for package, source in files.sources:
        match = NAME.fullmatch(source.name)
        assert match
        pictures[match[1]][match[2]] = (package, source)
    collected = ClipCollector(max_seconds=2.5)
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for stem in sorted(pictures, key=lambda stem: sha256_of(f"st{stem}")):
        name = stem.split("/")[-1]
        split = split_of(re.sub(r"[0-9_]+", "", name).lower(), "stamps", 0.5, 0.2)  # red1 and red2 are in one split
        for language, (package, source) in sorted(pictures[stem].items()):
            if counts[language, split] >= QUOTA[split] or source.digest in seen:
                continue
            samples = files.read(source)
            if samples is None or not 0.3 < len(samples) / SAMPLE_RATE < 4:
                continue
            seen.add(source.digest)
            counts[language, split] += collected.add(name, samples, language, split, package)
    clips = drop_near_copies(collected.clips, 0.985)
    return [replace(clip, samples=scale_to_peak(own_channel(clip.samples, clip.key + clip.label))) for clip in clips]


STAMPS_LANGUAGE = SetRecipe(name="stamps_language", select=_select, build=_build)

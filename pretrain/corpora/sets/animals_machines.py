"""Sounds of animals, weather, water, people, tools and vehicles. The label is what sounds, from the file's name.

The clips of a class and a package are in one split; ``animals_machines.tsv`` holds the patterns of the files' names.
Of a long recording several excerpts are used.
"""

import csv
import re
from functools import cache
from pathlib import Path, PurePosixPath

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    drop_small_classes,
    sha256_of,
)

TABLE = Path(__file__).with_name("animals_machines.tsv")
EXCERPT_SECONDS, MAX_EXCERPTS = 2, 8
MAX_CLIPS = 60
"""Maximum number of clips of one package in a class."""


@cache
def _rules() -> list[tuple[str, str, str, re.Pattern[str]]]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["label"], row["package"], row["split"], re.compile(row["names"])) for row in rows]


def label_and_split(package: str, name: str) -> tuple[str, str] | None:
    """The class and split of a file; None if no pattern of its package matches the whole name without suffix."""
    stem = PurePosixPath(name).stem
    matches = [(rule[0], rule[2]) for rule in _rules() if rule[1] == package and rule[3].fullmatch(stem)]
    return matches[0] if "/music/" not in name and len(matches) == 1 else None


def _select(package: str, name: str) -> bool:
    return PurePosixPath(name).suffix in {".ogg", ".wav"} and label_and_split(package, name) is not None


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=EXCERPT_SECONDS, min_seconds=0.1)
    counts: dict[tuple[str, str], int] = {}
    unique = {source.digest: (package, source) for package, source in reversed(files.sources)}
    for package, source in sorted(unique.values(), key=lambda item: sha256_of(item[1].name)):
        found, samples = label_and_split(package, source.name), files.read(source)
        assert found
        label, split = found
        if samples is None:
            continue
        length = EXCERPT_SECONDS * SAMPLE_RATE
        excerpts = min(MAX_EXCERPTS, max(1, len(samples) // length))
        for number in range(excerpts):
            first = len(samples) * number // excerpts
            if counts.get((label, package), 0) < MAX_CLIPS:
                key = f"{package.replace('-data', '')}_{PurePosixPath(source.name).stem}_{number}"
                excerpt = samples[first : first + length]
                added = collected.add(key, excerpt, label, split, package, source.name)
                counts[label, package] = counts.get((label, package), 0) + added
    return drop_small_classes(drop_near_copies(collected.clips, 0.985), 8, 2, 4)


ANIMALS_MACHINES = SetRecipe(name="animals_machines", select=_select, build=_build)

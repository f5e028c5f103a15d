"""Sound effects of games and desktop themes. The label is the kind of sound, taken from the file's name.

The clips of a class and a package are in one split. ``game_effects_names.tsv`` holds the patterns of each class,
``game_effects_splits.tsv`` the split of each package in it.
"""

import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path

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

FOLDER = Path(__file__).parent
OTHER = re.compile(
    "tuxpaint|ktuberling|asterisk|fillets|gcin|festvox|hydrogen|voices|sonic-pi|bucklespring|music/|brainparty|avldrums|/lang|planetblupi"
)
"""Packages and folders that hold no effects."""
SECONDS, LONG_SECONDS = (0.08, 60.0), 12.0
LONG_LABELS = {"wind", "crowd", "water", "fire", "engine"}
MAX_CLIPS = 16
"""Maximum number of clips of one package in a class."""


@cache
def _patterns() -> dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]]:
    with (FOLDER / "game_effects_names.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row["label"]: (re.compile(row["is"]), re.compile(row["is_not"]) if row["is_not"] else None) for row in rows}


@cache
def _splits() -> dict[tuple[str, str], str]:
    with (FOLDER / "game_effects_splits.tsv").open(newline="", encoding="utf-8") as file:
        return {(row["label"], row["package"]): row["split"] for row in csv.DictReader(file, delimiter="\t")}


def label_of(package: str, name: str) -> str | None:
    """The class whose pattern matches a file's name; None if no class or several match."""
    if OTHER.search(f"{package}/{name}"):
        return None
    file = name.split("/")[-1].lower()
    labels = [
        label
        for label, (include, exclude) in _patterns().items()
        if include.search(file) and not (exclude is not None and exclude.search(file))
    ]
    return labels[0] if len(labels) == 1 else None


def _select(package: str, name: str) -> bool:
    return label_of(package, name) is not None


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=4.0, min_seconds=0.06)
    counts: Counter[tuple[str, str]] = Counter()
    unique = {source.digest: (package, source) for package, source in reversed(files.sources)}
    for package, source in sorted(unique.values(), key=lambda item: sha256_of(item[1].name)):
        label = label_of(package, source.name)
        split = _splits().get((label or "", package))
        if label is None or split is None or counts[label, package] >= MAX_CLIPS:
            continue
        samples = files.read(source)
        if samples is None or not SECONDS[0] < len(samples) / SAMPLE_RATE < SECONDS[1]:
            continue
        if len(samples) > LONG_SECONDS * SAMPLE_RATE and label not in LONG_LABELS:
            continue
        counts[label, package] += 1
        key = f"{package.replace('-data', '')}_{source.name.split('/')[-1].rsplit('.', 1)[0]}"
        collected.add(key, samples, label, split, package, package)
    return drop_small_classes(drop_near_copies(collected.clips, 0.985), 8, 3, 5)


GAME_EFFECTS = SetRecipe(name="game_effects", select=_select, build=_build)

"""Sounds of games and themes; label: what it is, from the file's name; split by package inside each class.

``game_effects_names.tsv`` has the patterns of each class, ``game_effects_splits.tsv`` the split of each package in it.
"""

import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.corpora.sets.labelled import (
    Collection,
    Found,
    LabelledClip,
    Recipe,
    digest_of,
    drop_near_copies,
    drop_small_classes,
)

HERE = Path(__file__).parent
OTHER = re.compile(
    "tuxpaint|ktuberling|asterisk|fillets|gcin|festvox|hydrogen|voices|sonic-pi|bucklespring|music/|brainparty|avldrums|/lang|planetblupi"
)
"""Packages and folders of other things than effects."""
SECONDS, LONG_SECONDS = (0.08, 60.0), 12.0
LONG_LABELS = {"wind", "crowd", "water", "fire", "engine"}
MOST = 16
"""Clips of one package in a class."""


@cache
def _patterns() -> dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]]:
    with (HERE / "game_effects_names.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row["label"]: (re.compile(row["is"]), re.compile(row["is_not"]) if row["is_not"] else None) for row in rows}


@cache
def _splits() -> dict[tuple[str, str], str]:
    with (HERE / "game_effects_splits.tsv").open(newline="", encoding="utf-8") as file:
        return {(row["label"], row["package"]): row["split"] for row in csv.DictReader(file, delimiter="\t")}


def label_of(package: str, name: str) -> str | None:
    """The one class that a file's name says; None for none or several."""
    if OTHER.search(f"{package}/{name}"):
        return None
    file = name.split("/")[-1].lower()
    said = [
        label
        for label, (yes, no) in _patterns().items()
        if yes.search(file) and not (no is not None and no.search(file))
    ]
    return said[0] if len(said) == 1 else None


def _wanted(package: str, name: str) -> bool:
    return label_of(package, name) is not None


def _build(found: Found) -> list[LabelledClip]:
    collected = Collection(max_seconds=4.0, min_seconds=0.06)
    counts: Counter[tuple[str, str]] = Counter()
    once = {source.digest: (package, source) for package, source in reversed(found.files)}
    for package, source in sorted(once.values(), key=lambda item: digest_of(item[1].name)):
        label = label_of(package, source.name)
        split = _splits().get((label or "", package))
        if label is None or split is None or counts[label, package] >= MOST:
            continue
        samples = found.read(source)
        if samples is None or not SECONDS[0] < len(samples) / SAMPLE_RATE < SECONDS[1]:
            continue
        if len(samples) > LONG_SECONDS * SAMPLE_RATE and label not in LONG_LABELS:
            continue
        counts[label, package] += 1
        key = f"{package.replace('-data', '')}_{source.name.split('/')[-1].rsplit('.', 1)[0]}"
        collected.add(key, samples, label, split, package, package)
    return drop_small_classes(drop_near_copies(collected.clips, 0.985), 8, 3, 5)


GAME_EFFECTS = Recipe(name="game_effects", wanted=_wanted, build=_build)

"""Voice packs of a game. The label is the pack; splits differ in their phrases."""

import re

from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    drop_small_classes,
    split_of,
)

NAME = re.compile(r"Sounds/voices/([^/]+)/([^/]+)\.ogg$")
OWNER = "/Default/"
"""The pack that keeps a recording which other packs contain, too."""


def _select(_: str, name: str) -> bool:
    return NAME.search(name) is not None


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=3.0)
    seen: set[str] = set()
    for package, source in sorted(files.sources, key=lambda item: OWNER not in item[1].name):
        match = NAME.search(source.name)
        if match is None or source.digest in seen:
            continue
        seen.add(source.digest)
        phrase = re.sub(r"[0-9]+$", "", match[2]).lower()
        split = split_of(phrase, "hw7", 0.5, 0.18)
        collected.add(match[2], files.read(source), match[1], split, package, phrase)
    return drop_small_classes(drop_near_copies(collected.clips, 0.985), 8, 3, 5)


GAME_VOICES = SetRecipe(name="game_voices", select=_select, build=_build)

"""Single Mandarin syllables read by two speakers. The label is the tone; splits differ in their syllables."""

import re
from collections import Counter

from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    sha256_of,
    split_of,
)

NAME = re.compile(r"/ogg/([^/0-9]+)([0-9]?)/([35])\.ogg$")
TONES = {"": "1", "2": "2", "3": "3", "4": "4"}
QUOTA = {"train": 150, "valid": 50, "test": 75}


def _select(_: str, name: str) -> bool:
    match = NAME.search(name)
    return match is not None and match[2] in TONES


def _build(files: SetFiles) -> list[LabelledClip]:
    syllables = []
    for package, source in files.sources:
        match = NAME.search(source.name)
        assert match
        syllables.append((match[1], match[2], match[3], package, source))
    syllables.sort(key=lambda row: sha256_of(f"{row[0]}/{row[1] or '-'}/{row[2]}"))
    collected = ClipCollector(max_seconds=1.0)
    counts: Counter[tuple[str, str]] = Counter()
    for base, tone, speaker, package, source in syllables:
        label, split = f"tone{TONES[tone]}", split_of(base, "gcin", 0.55, 0.18)
        if counts[label, split] < QUOTA[split]:
            key = f"{''.join(f'{ord(letter):04x}' for letter in base)}_{TONES[tone]}_v{speaker}"
            counts[label, split] += collected.add(key, files.read(source), label, split, package, base)
    return drop_near_copies(collected.clips, 0.995)


MANDARIN_TONE = SetRecipe(name="mandarin_tone", select=_select, build=_build)

"""Spoken syllables. The label is their vowel; splits differ in their speakers and languages."""

import re
from collections import Counter

from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    sha256_of,
)

NAME = re.compile(r"/klettres/(ml|tn|pt_BR|it|es)/syllab/([^/]+)\.ogg$")
SPLITS = {"ml": "train", "tn": "train", "pt_BR": "train", "it": "valid", "es": "test"}
"""Each language seems to be spoken by one person."""
OPEN = re.compile(r"[^aeiou]*(?:u?u(?=[ei]))?(aa?|ee|eae|e|ii?|oo?|uu?)")
"""An open syllable; in the Malayalam ones, a doubled letter or ``eae`` is a long vowel."""
AMBIGUOUS = re.compile(r".*ee")
"""In Malayalam it transcribes two vowels."""
MAX_CLIPS = 40
"""Maximum number of clips of one vowel by one speaker."""


def vowel_of(syllable: str) -> str | None:
    """The vowel of an open syllable; None for others, such as those with a diphthong."""
    match = OPEN.fullmatch(syllable)
    return match[1][0] if match and not AMBIGUOUS.fullmatch(syllable) else None


def _select(_: str, name: str) -> bool:
    match = NAME.search(name)
    return match is not None and vowel_of(match[2]) is not None


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=1.5)
    counts: Counter[tuple[str, str]] = Counter()
    for package, source in sorted(files.sources, key=lambda item: sha256_of(item[1].name)):
        match = NAME.search(source.name)
        assert match
        speaker, vowel = match[1], vowel_of(match[2])
        if vowel and counts[speaker, vowel] < MAX_CLIPS:
            key = f"{speaker}_{match[2]}"
            counts[speaker, vowel] += collected.add(key, files.read(source), vowel, SPLITS[speaker], package, speaker)
    return drop_near_copies(collected.clips, 0.995)


SPOKEN_VOWELS = SetRecipe(name="spoken_vowels", select=_select, build=_build)

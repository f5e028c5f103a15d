"""Letters, syllables and short words spoken in 15 languages. The label is the language; splits differ in their letters.

Each language seems to be spoken by one person, who is assumed not to speak in ``spoken_vowels``. Each clip gets its own
simulated channel, so that the recording does not give the language away.
"""

import re
from collections import Counter
from dataclasses import replace

from pretrain.corpora.sets.channel import own_channel
from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    drop_small_classes,
    scale_to_peak,
    sha256_of,
    split_of,
)

NAME = re.compile(r"/klettres/(ar|cs|da|de|en|en_GB|fr|he|hu|lt|nb|nds|nl|ru|uk)/(alpha|syllab)/([^/]+)\.ogg$")
NUMBERED = re.compile(r"(?:a-)(\d+)")
"""Names of letters that are numbers, from 0, in the order of the alphabet."""
CODED = re.compile(r"U([0-9A-F]{4})")
QUOTA = {"train": 36, "valid": 10, "test": 16}


def letter_of(language: str, folder: str, stem: str) -> str:
    """The group of a clip: the letter, which languages with the Latin alphabet share, or the language and its word."""
    if code := CODED.fullmatch(stem):
        return chr(int(code[1], 16))
    number = NUMBERED.fullmatch(stem) if folder == "alpha" else None
    if number and language in ("cs", "da", "fr", "nl"):
        return chr(ord("a") + int(number[1]))
    numbered = number or stem.startswith("ad-")
    return f"{language} {stem}" if numbered else re.sub(r"[0-9-]+", "", stem).lower()


def _select(_: str, name: str) -> bool:
    return NAME.search(name) is not None


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=2.0)
    counts: Counter[tuple[str, str]] = Counter()
    for package, source in sorted(files.sources, key=lambda item: sha256_of(f"letters{item[1].name}")):
        match = NAME.search(source.name)
        assert match
        language, folder, stem = match.groups()
        group = letter_of(language, folder, stem)
        split = split_of(group, "letters", 0.55, 0.17)
        if counts[language, split] < QUOTA[split]:
            samples = files.read(source)
            counts[language, split] += collected.add(f"{folder}_{stem}", samples, language, split, package, group)
    clips = drop_small_classes(drop_near_copies(collected.clips, 0.985), 10, 3, 4)
    return [replace(clip, samples=scale_to_peak(own_channel(clip.samples, clip.key + clip.label))) for clip in clips]


LETTERS_LANGUAGE = SetRecipe(name="letters_language", select=_select, build=_build)

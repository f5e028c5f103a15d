"""Excerpts of 3 s of the music of games. The label is the game; splits differ in their tracks."""

from collections import defaultdict

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from pretrain.corpora.debian.deb import Source, suffix_of
from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    drop_small_classes,
    sha256_of,
)

GAMES = {
    "wesnoth-1.16-music": "wesnoth",
    "hedgewars-data": "hedgewars",
    "planetblupi-music-ogg": "planetblupi",
    "supertux-data": "supertux",
    "colobot-common-sounds": "colobot",
    "singularity-music": "singularity",
    "marsshooter-data": "marsshooter",
    "drascula-music": "drascula",
    "megaglest-data": "megaglest",
    "pushover-data": "pushover",
    "fillets-ng-data": "fillets",
    "hyperrogue-music": "hyperrogue",
    "starfighter-data": "starfighter",
    "nexuiz-music": "nexuiz",
}
ARCHIVED = "nexuiz-music"
"""A package whose music is in an archive; all of its tracks are used."""
MIN_SECONDS, EXCERPT_SECONDS, MIN_RMS = 40.0, 3, 0.005
MAX_TRACKS, FEW_TRACKS = 20, 14


def _select(package: str, name: str) -> bool:
    if package == ARCHIVED:
        return "!" not in name or name.endswith(".ogg")
    return suffix_of(name) in {".ogg", ".mp3", ".flac", ".oga"}


def _build(files: SetFiles) -> list[LabelledClip]:
    tracks: dict[str, list[Source]] = defaultdict(list)
    for package, source in files.sources:
        tracks[package].append(source)
    collected = ClipCollector(max_seconds=EXCERPT_SECONDS, trim_db=-90)
    for package in sorted(tracks, key=GAMES.__getitem__):
        chosen = _long_tracks(package, tracks[package], files)
        for number, (source, samples) in enumerate(chosen):
            _add_excerpts(collected, package, source, samples, _split(number, len(chosen)), len(chosen))
    return drop_small_classes(drop_near_copies(collected.clips, 0.985), 8, 3, 4)


def _long_tracks(package: str, sources: list[Source], files: SetFiles) -> list[tuple[Source, np.ndarray]]:
    """The first 20 long tracks in the order of a hash of their names."""
    tracks: list[tuple[Source, np.ndarray]] = []
    for source in sorted(sources, key=lambda source: sha256_of(f"snd{source.name}")):
        samples = files.read(source)
        if samples is not None and (package == ARCHIVED or len(samples) > MIN_SECONDS * SAMPLE_RATE):
            tracks.append((source, samples))
        if len(tracks) == MAX_TRACKS:
            break
    return tracks


def _split(number: int, tracks: int) -> str:
    test, valid = max(3, round(tracks * 0.3)), max(2, round(tracks * 0.2))
    return "test" if number < test else "valid" if number < test + valid else "train"


def _add_excerpts(
    collected: ClipCollector, package: str, source: Source, samples: np.ndarray, split: str, tracks: int
) -> None:
    """Collect excerpts at equal distances; more of a game with few tracks."""
    count = 2 if split != "train" else 4 if tracks < FEW_TRACKS else 3
    stem = source.name.split("/")[-1].rsplit(".", 1)[0]
    seconds = len(samples) / SAMPLE_RATE
    for number in range(1, count + 1):
        start = seconds * number / (count + 1)
        excerpt = samples[int(start * SAMPLE_RATE) : int((start + EXCERPT_SECONDS) * SAMPLE_RATE)]
        complete = len(excerpt) >= EXCERPT_SECONDS * SAMPLE_RATE - 10
        if complete and np.sqrt(np.square(excerpt).mean()) >= MIN_RMS:
            collected.add(f"{stem}_{int(start)}s", excerpt, GAMES[package], split, package, source.name)


SOUNDTRACKS = SetRecipe(name="soundtracks", select=_select, build=_build, expands=True)

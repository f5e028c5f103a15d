"""Single drum hits. The label is the drum, taken from the file's name; splits differ in their drum kits."""

import re
from collections import Counter

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

NO_HIT = ""
NAMES = {
    "clap": r"clap",
    NO_HIT: r"pedal|foot|bell|snare.*rim|rim.*snare|crashride|snareoff|swish|clave|agogo|click|choke",
    "rimshot": r"rim|stick|(?<![a-z])rs_",
    "ride": r"ride|(?<![a-z])rd[0-9]?_|(?<![a-z])rc_",
    "hihat": r"hat(?![a-z]*h)|(?<![a-z])hh|hihat|[co]hh|(?<![a-z])ho_",
    "cymbal_crash": r"crash|splash|china|cymbal|(?<![a-z])cr(a)?sh?[0-9_]|(?<![a-z])cc_",
    "snare": r"snare|(?<![a-z])sn[0-9]?_|(?<![a-z])sn(?![a-z])|snr|(?<![a-z])sd[0-9_-]",
    "kick": r"kick|(?<![a-z])bd[0-9]?[_-]|(?<![a-z])bd(?![a-z])|bass_?drum|drum_bass|(?<![a-z])k[0-9]?_",
    "tom": r"(?<![a-z])tom|tom[0-9]|floortom|(?<![a-z])tm[0-9]?_|(?<![a-z])ft_|(?<![a-z])t[12]_|pearltom",
    "hand_drum": r"conga|bongo|djembe|tabla|timbale|cajon|kenkeni1_head|sangban1_head|dununba1_head",
    "shaker": r"shaker|maraca|cabasa|tamb",
}
"""The first pattern found in a name gives the label; NO_HIT marks other sounds."""
NO_DRUM = re.compile(r"loop|ambi|bass_|perc_door|elec_b|glitch|misc|mehack|vinyl|guit")
"""Beginnings of the names of sonic-pi's other samples."""
KITS = {
    "train": (
        "ForzeeStereo",
        "BJA_Pacific",
        "Millo_MultiLayered2",
        "Millo-Drums_v.1",
        "TR808EmulationKit",
        "HardElectro1",
        "Audiophob",
        "sonicpi_drum",
        "sonicpi_bd",
        "sonicpi_sn",
        "sonicpi_tabla",
        "sonicpi_perc",
        "circAfrique v4",
    ),
    "valid": ("ColomboAcousticDrumkit", "ElectricEmpireKit", "Millo_MultiLayered3", "VariBreaks", "sonicpi_elec"),
    "test": ("The Black Pearl 1.0", "GMRockKit", "Gimme A Hand 1.0", "drums"),
}
SPLIT = {kit: split for split, kits in KITS.items() for kit in kits}
MAX_CLIPS = {"train": 12, "valid": 18, "test": 18}
"""Maximum number of clips of one drum of one kit, so that the classes are balanced."""


def _describe(package: str, name: str) -> tuple[str, str, str]:
    """The label, kit and name of a file; the label is NO_HIT unless it is a hit of a known drum and kit."""
    folder, file = name.split("/")[-2:] if "/" in name else ("", name)
    stem = file.lower().replace(" ", "_").rsplit(".", 1)[0]
    kit = folder
    if package == "sonic-pi-samples":
        kit = NO_HIT if NO_DRUM.match(stem) else f"sonicpi_{stem.split('_')[0]}"
    elif (package == "lmms-common") != (folder == "drums"):
        kit = NO_HIT
    label = next((label for label, pattern in NAMES.items() if re.search(pattern, stem)), NO_HIT)
    return (label if kit in SPLIT else NO_HIT), kit, stem


def _select(package: str, name: str) -> bool:
    return _describe(package, name)[0] != NO_HIT


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=1.5, min_seconds=0.03, trim_db=-40)
    for package, source in files.sources:
        label, kit, stem = _describe(package, source.name)
        samples = files.read(source)
        if samples is not None and 0.03 < len(samples) / SAMPLE_RATE < 12:
            collected.add(f"{kit}_{stem}", samples, label, SPLIT[kit], package, kit)
    counts: Counter[tuple[str, str, str]] = Counter()
    balanced = []
    clips = drop_near_copies(collected.clips, 0.99, limit_in_split=0.9995)
    for clip in sorted(clips, key=lambda clip: sha256_of(clip.key)):
        counts[clip.label, clip.split, clip.group] += 1
        if counts[clip.label, clip.split, clip.group] <= MAX_CLIPS[clip.split]:
            balanced.append(clip)
    return drop_small_classes(balanced, 8, 2, 6)


DRUMS = SetRecipe(name="drums", select=_select, build=_build)

"""Single notes of General MIDI instruments. The label is the instrument; splits differ in their sound banks."""

import random
import re
from pathlib import Path

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from pretrain.corpora.debian.deb import Source, suffix_of
from pretrain.corpora.debian.programs import run_program
from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    SetRecipe,
    drop_near_copies,
    drop_small_classes,
)
from pretrain.corpora.sets.midi import EVERY_SECONDS, RATE, Note, fluidsynth_command, midi_file

INSTRUMENTS = {
    "piano": (0, 36, 88),
    "harpsichord": (6, 40, 84),
    "glockenspiel": (9, 72, 96),
    "vibraphone": (11, 53, 84),
    "marimba": (12, 48, 84),
    "xylophone": (13, 65, 96),
    "tubular_bells": (14, 55, 77),
    "church_organ": (19, 40, 84),
    "accordion": (21, 50, 84),
    "nylon_guitar": (24, 40, 76),
    "distortion_guitar": (30, 40, 76),
    "acoustic_bass": (32, 28, 50),
    "slap_bass": (36, 28, 50),
    "violin": (40, 55, 90),
    "cello": (42, 36, 69),
    "harp": (46, 36, 88),
    "choir": (52, 48, 77),
    "trumpet": (56, 54, 84),
    "trombone": (57, 40, 70),
    "french_horn": (60, 41, 74),
    "alto_sax": (65, 50, 80),
    "oboe": (68, 58, 88),
    "clarinet": (71, 50, 88),
    "flute": (73, 60, 92),
    "pan_flute": (75, 60, 88),
    "sitar": (104, 48, 76),
    "steel_drums": (114, 55, 84),
}
"""MIDI program, counted from 0; lowest and highest key."""
VELOCITIES = (70, 85, 100, 115)
BANKS = {
    "fluidr3": ("fluid-soundfont-gm", "usr/share/sounds/sf2/FluidR3_GM.sf2", "train", 14),
    "freepats": ("freepats", "etc/timidity/freepats.cfg", "train", 6),
    "csoundgm": ("csound-soundfont", "usr/share/sounds/sf2/sf_GMbank.sf2", "valid", 6),
    "timgm": ("timgm6mb-soundfont", "usr/share/sounds/sf2/TimGM6mb.sf2", "test", 10),
}
"""Package, file, split, and number of notes per instrument."""
NOTE_SECONDS = 2.9
PATCHES = "usr/share/midi/freepats/"
BANK_LINE = re.compile(r"bank\s+(\d+)|(drumset)\b.*")
PATCH_LINE = re.compile(r"(\d+)\s+(\S+)((?:\s+\w+=[\w.%-]+)*)\s*(?:#.*)?")


def _select(package: str, name: str) -> bool:
    known = {(bank[0], bank[1]) for bank in BANKS.values()}
    return (package, name) in known or (package == "freepats" and suffix_of(name) == ".pat")


def _build(files: SetFiles) -> list[LabelledClip]:
    by_name = {(package, source.name): source for package, source in files.sources}
    collected = ClipCollector(max_seconds=1.5)
    for bank, (package, name, split, count) in BANKS.items():
        labels, notes = _notes(bank, count)
        midi, wav = files.scratch / f"{bank}.mid", files.scratch / f"{bank}.wav"
        midi.write_bytes(midi_file(notes))
        if bank == "freepats":
            config = files.scratch / "freepats.cfg"
            config.write_text(_timidity_config(by_name[package, name].path.read_text("latin1"), by_name))
            quiet = ["-EFreverb=0", "-EFchorus=0"]
            command = ["timidity", "-c", config.name, *quiet, "-Ow", "-s", str(RATE), "-o", wav.name, midi.name]
        else:
            command = fluidsynth_command(by_name[package, name].path, midi.name, wav.name)
        run_program(command, files.scratch)
        _cut(collected, wav, bank, package, split, labels, notes)
    return drop_small_classes(drop_near_copies(collected.clips, 0.995), 10, 3, 5)


def _notes(bank: str, count: int) -> tuple[list[str], list[Note]]:
    """Draw labels and notes at random, seeded by the bank's name."""
    generator = random.Random(f"gm{bank}")
    labels, notes = [], []
    for label, (program, low, high) in INSTRUMENTS.items():
        for key in generator.sample(range(low, high + 1), min(count, high - low + 1)):
            labels.append(label)
            notes.append(Note(program, key, generator.choice(VELOCITIES)))
    return labels, notes


def _cut(
    collected: ClipCollector, wav: Path, bank: str, package: str, split: str, labels: list[str], notes: list[Note]
) -> None:
    samples = read_audio(wav)
    for number, (label, note) in enumerate(zip(labels, notes, strict=True)):
        first = EVERY_SECONDS * number * SAMPLE_RATE
        excerpt = samples[first : first + int(NOTE_SECONDS * SAMPLE_RATE)]
        collected.add(f"{bank}_{note.key}_{note.velocity}", excerpt, label, split, package, bank)


def _timidity_config(text: str, files: dict[tuple[str, str], Source]) -> str:
    """The melodic bank 0 of the package's configuration, with paths of unpacked patches and no other command."""
    lines = ["bank 0"]
    bank = None
    for line in map(str.strip, text.splitlines()):
        if head := BANK_LINE.fullmatch(line):
            bank = head[1]
        elif bank == "0" and (patch := PATCH_LINE.fullmatch(line)):
            source = files.get(("freepats", PATCHES + patch[2])) or files.get(("freepats", f"{PATCHES}{patch[2]}.pat"))
            if source:
                lines.append(f"{patch[1]} {source.path.resolve()}{patch[3]}")
    return "\n".join(lines) + "\n"


GM_INSTRUMENTS = SetRecipe(
    name="gm_instruments",
    select=_select,
    build=_build,
    programs=("fluidsynth", "timidity"),
    installed=("fluidsynth", "timidity"),
)

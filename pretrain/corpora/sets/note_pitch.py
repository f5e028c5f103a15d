"""Single notes of two sound banks. The label is the pitch, C3 to B4; splits differ in their instruments."""

import random

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from pretrain.corpora.debian.programs import run_program
from pretrain.corpora.sets.gm_instruments import INSTRUMENTS, VELOCITIES
from pretrain.corpora.sets.labelled import ClipCollector, LabelledClip, SetFiles, SetRecipe, drop_near_copies
from pretrain.corpora.sets.midi import EVERY_SECONDS, Note, fluidsynth_command, midi_file

BANKS = {
    "minuet-data": "usr/share/minuet/soundfonts/GeneralUser-v1.47.sf2",
    "opl3-soundfont": "usr/share/sounds/sf2/OPL-3_FM_128M.sf2",
}
"""Package and file of each bank."""
LOW, HIGH = 48, 71
NAMES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")
SPLITS = {
    "train": (
        *("piano", "harpsichord", "vibraphone", "marimba", "nylon_guitar", "harp"),
        *("violin", "cello", "choir", "trumpet", "trombone", "french_horn"),
    ),
    "valid": ("accordion", "alto_sax", "sitar"),
    "test": ("church_organ", "oboe", "clarinet", "flute", "pan_flute", "steel_drums"),
}
"""No family of instruments is in two splits. They are assumed to sound at the written pitch.

An estimate from the harmonics disagreed for isolated notes of choir and sitar (GeneralUser) and trombone (OPL3).
"""
NOTE_SECONDS = 2.9


def _select(package: str, name: str) -> bool:
    return BANKS[package] == name


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=1.5)
    for package, source in files.sources:
        generator = random.Random(f"pitch{package}")
        for split, instruments in SPLITS.items():
            for instrument in instruments:
                program = INSTRUMENTS[instrument][0]
                notes = [Note(program, key, generator.choice(VELOCITIES)) for key in range(LOW, HIGH + 1)]
                name = f"{package}-{instrument}"
                (files.scratch / f"{name}.mid").write_bytes(midi_file(notes))
                run_program(fluidsynth_command(source.path, f"{name}.mid", f"{name}.wav"), files.scratch)
                samples = read_audio(files.scratch / f"{name}.wav")
                for number, note in enumerate(notes):
                    first = EVERY_SECONDS * number * SAMPLE_RATE
                    excerpt = samples[first : first + int(NOTE_SECONDS * SAMPLE_RATE)]
                    collected.add(f"{name}_{note.velocity}", excerpt, pitch_name(note.key), split, package, instrument)
    return drop_near_copies(collected.clips, 0.9995)


def pitch_name(key: int) -> str:
    """Name of a MIDI key, such as A3 for 57; ``s`` is a sharp."""
    return f"{NAMES[key % 12]}{key // 12 - 1}"


NOTE_PITCH = SetRecipe(
    name="note_pitch", select=_select, build=_build, programs=("fluidsynth",), installed=("fluidsynth",)
)

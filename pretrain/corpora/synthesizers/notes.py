"""Notes, intervals, chords and short phrases played by the physical and FM models of csound."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from pretrain.corpora.debian.programs import run_program
from pretrain.corpora.sets.labelled import fade, scale_to_peak, trim
from pretrain.corpora.synthesizers.store import PREFIX, Sound

ORCHESTRA = Path(__file__).with_name("notes.orc")


class Model(NamedTuple):
    """An instrument of ``notes.orc``."""

    low: int
    high: int
    """Lowest and highest MIDI key."""
    pitched: bool
    """Whether its fundamental, measured by autocorrelation, is within half a semitone of the key's.

    Only then is the key a label.
    """


MODELS = {
    "pluck": Model(40, 84, True),
    "harp": Model(40, 72, True),
    "bowed": Model(50, 74, False),
    "flute": Model(58, 86, True),
    "reed": Model(45, 84, True),
    "bell": Model(48, 84, False),
    "rhodes": Model(40, 84, False),
    "wurlitzer": Model(40, 84, False),
    "organ": Model(36, 79, False),
    "metal": Model(40, 79, False),
    "bar": Model(48, 84, True),
    "vibes": Model(52, 84, True),
}
EVENTS = {"note": 70, "interval": 10, "chord": 10, "phrase": 10}
"""What is played, with the per cent of each."""
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 5, 7), (0, 4, 7, 10), (0, 3, 6), (0, 4, 8), (0, 3, 7, 10), (0, 4, 7, 11))
SECONDS, SHORT_SECONDS = (0.3, 1.5), (0.15, 0.4)
"""Length of a note, and of those of a phrase."""
SLOT_SECONDS, RELEASE_SECONDS, BATCH = 4, 0.15, 100
"""Distance of the sounds of a rendered file, what is heard after a note, and the most sounds of a file."""


class Played(NamedTuple):
    """A note of a score."""

    start: float
    seconds: float
    key: int


def play(seconds: float, seed: int, folder: Path) -> Iterator[Sound]:
    """Yield about ``seconds`` of sound, the same of each model.

    Raises:
        ProgramError: csound failed.
    """
    share = seconds / len(MODELS)
    batch = min(BATCH, 1 + int(share / SECONDS[0]))
    for name, model in MODELS.items():
        played, number = 0.0, 0
        while played < share:
            generator = random.Random(f"notes {seed} {name} {number}")
            events = [draw_event(model, generator) for _ in range(batch)]
            samples = _render(name, [notes for _, notes in events], generator, folder)
            for slot, (what, notes) in enumerate(events):
                first = SLOT_SECONDS * slot * SAMPLE_RATE
                end = max(note.start + note.seconds for note in notes) + RELEASE_SECONDS
                sound = trim(samples[first : first + int(end * SAMPLE_RATE)], -45)
                played += len(sound) / SAMPLE_RATE
                yield Sound(f"{PREFIX}/csound/{name}/{what} {number + slot}", fade(scale_to_peak(sound)))
                if played >= share:
                    break
            number += batch


def draw_event(model: Model, generator: random.Random) -> tuple[str, list[Played]]:
    """Draw what is played: its name, ``note KEY`` for one whose pitch is known, and its notes."""
    what = generator.choices(list(EVENTS), list(EVENTS.values()))[0]
    key, seconds = generator.randint(model.low, model.high), round(generator.uniform(*SECONDS), 3)
    if what == "note":
        return f"{what if model.pitched else 'key'} {key}", [Played(0, seconds, key)]
    if what == "phrase":
        notes, start = [], 0.0
        for _ in range(generator.randint(3, 6)):
            length = round(generator.uniform(*SHORT_SECONDS), 3)
            notes.append(Played(round(start, 3), length, key))
            start += length
            key = min(model.high, max(model.low, key + generator.choice((-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 7))))
        return what, notes
    steps = (0, generator.randint(1, 12)) if what == "interval" else generator.choice(CHORDS)
    root = min(key, model.high - steps[-1])
    return what, [Played(0, seconds, root + step) for step in steps]


def score_of(name: str, events: list[list[Played]], generator: random.Random) -> str:
    """The score in which event ``i`` begins at 4 ``i`` s, each with its own loudness and brightness."""
    lines = []
    for slot, notes in enumerate(events):
        amplitude, brightness = generator.uniform(0.2, 0.6), generator.uniform(0, 1)
        for note in notes:
            hz = 440 * 2 ** ((note.key - 69) / 12)
            start = SLOT_SECONDS * slot + note.start
            lines.append(f'i "{name}" {start:.3f} {note.seconds:.3f} {hz:.4f} {amplitude:.3f} {brightness:.3f}')
    return "\n".join([*lines, f"f 0 {SLOT_SECONDS * len(events)}", "e", ""])


def _render(name: str, events: list[list[Played]], generator: random.Random, folder: Path) -> np.ndarray:
    """(S,) samples at 16 kHz of the score."""
    (folder / "notes.sco").write_text(score_of(name, events, generator))
    command = ["csound", "-d", "-m0", "-W", "-f", "-o", "notes.wav", str(ORCHESTRA.resolve()), "notes.sco"]
    run_program(command, folder)
    return read_audio(folder / "notes.wav")

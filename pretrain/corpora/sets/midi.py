"""Writes a Standard MIDI File with a note every three seconds, and the command that plays it."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = 960
EVERY_SECONDS = 3
LEAD_TICKS, NOTE_TICKS, STEP_TICKS = 96, 1152, EVERY_SECONDS * TICKS_PER_SECOND
"""Silence before a note, its length of 1.2 s, and the distance of notes."""
TICKS_PER_QUARTER, MICROSECONDS_PER_QUARTER = 480, 500_000
PROGRAM, ON, OFF, CONTROL, ALL_SOUND_OFF = 0xC0, 0x90, 0x80, 0xB0, 120


RATE = 44_100
"""Sample rate in Hz at which notes are rendered."""


class Note(NamedTuple):
    """A note of a General MIDI instrument."""

    program: int
    key: int
    velocity: int


def midi_file(notes: Iterable[Note]) -> bytes:
    """Write notes to one track on one channel; note ``i`` begins 0.1 s after 3 ``i`` s."""
    track = b"\0\xff\x51\x03" + MICROSECONDS_PER_QUARTER.to_bytes(3, "big")
    for note in notes:
        track += _event(0, PROGRAM, note.program)
        track += _event(LEAD_TICKS, ON, note.key, note.velocity)
        track += _event(NOTE_TICKS, OFF, note.key, note.velocity)
        track += _event(STEP_TICKS - LEAD_TICKS - NOTE_TICKS, CONTROL, ALL_SOUND_OFF, 0)
    track += b"\0\xff\x2f\0"
    header = (0).to_bytes(2, "big") + (1).to_bytes(2, "big") + TICKS_PER_QUARTER.to_bytes(2, "big")
    return b"MThd" + (6).to_bytes(4, "big") + header + b"MTrk" + len(track).to_bytes(4, "big") + track


def fluidsynth_command(font: Path, midi: str, wav: str) -> list[str]:
    """The command that renders a MIDI file with a sound bank, without reverb and chorus."""
    quiet = ["-niq", "-R", "0", "-C", "0", "-g", "0.5"]
    return ["fluidsynth", *quiet, "-r", str(RATE), "-F", wav, str(font.resolve()), midi]


def _event(ticks: int, *message: int) -> bytes:
    delta = [ticks & 127]
    while ticks := ticks >> 7:
        delta.insert(0, 128 | (ticks & 127))
    return bytes([*delta, *message])

"""Synthesized English command words. The label is the word; splits differ in their voices."""

import random
from collections.abc import Iterator
from pathlib import Path

from maeast_upstream.audio.reading import AudioError, read_audio
from pretrain.corpora.debian.programs import run_program
from pretrain.corpora.sets.labelled import ClipCollector, LabelledClip, SetFiles, SetRecipe, drop_near_copies

WORDS = (
    *("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "zero"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)
ESPEAK_TRAIN = (
    *("en-us", "en-us+f1", "en-us+f3", "en-us+m2", "en-us+klatt2", "en-us+belinda", "en-us+Andy"),
    *("en-gb", "en-gb+f2", "en-gb+m3", "en-gb+f5", "en-gb+klatt4", "en-gb+Alicia"),
    *("en-gb-scotland", "en-gb-scotland+f4", "en-gb-scotland+m5", "en-gb-x-rp", "en-gb-x-rp+f2", "en-gb-x-rp+m7"),
    *("en-029", "en-029+f3", "en-029+m4", "en-us+grandpa", "en-gb+aunty", "en-us+Storm", "en-us+anika"),
)
ESPEAK_VALID = ("en-gb-x-gbclan", "en-gb-x-gbcwmd+f2")
SPEEDS, PITCHES, SEED = (130, 150, 170, 185), (35, 45, 50, 55, 65), 5
FLITE = {
    "awb": ("train", (0.9, 1.0, 1.15)),
    "kal16": ("train", (1.0, 1.25)),
    "rms": ("test", (0.9, 1.0, 1.15)),
    "slt": ("test", (0.9, 1.0, 1.15)),
}
FESTIVAL = {
    "cmu_us_slt_arctic_hts": ("test", (0.95, 1.15), "festvox-us-slt-hts"),
    "ked_diphone": ("valid", (0.9, 1.0, 1.2), "festvox-kdlpc16k"),
}

SpokenWord = tuple[str, str, str, str, Path]
"""Key, word, split, package and file."""


def _build(files: SetFiles) -> list[LabelledClip]:
    collected = ClipCollector(max_seconds=1.5)
    for speak in (_espeak, _flite, _festival):
        for key, word, split, package, path in speak(files.scratch):
            try:
                samples = read_audio(path)
            except AudioError:
                continue
            collected.add(key, samples, word, split, package, key)
    return drop_near_copies(collected.clips, 0.995)


def _espeak(folder: Path) -> Iterator[SpokenWord]:
    generator = random.Random(SEED)
    voices = [("train", voice, generator.choice(SPEEDS), generator.choice(PITCHES)) for voice in ESPEAK_TRAIN]
    voices += [("valid", voice, 150, 50) for voice in ESPEAK_VALID]
    for split, voice, speed, pitch in voices:
        for word in WORDS:
            path = folder / f"espeak_{voice}_{word}.wav"
            run_program(["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", path.name, word], folder)
            yield f"espeak_{voice}", word, split, "espeak-ng", path


def _flite(folder: Path) -> Iterator[SpokenWord]:
    for voice, (split, durations) in FLITE.items():
        for duration in durations:
            for word in WORDS:
                path = folder / f"flite_{voice}_{duration}_{word}.wav"
                setting = f"duration_stretch={duration}"
                run_program(["flite", "-voice", voice, "--setf", setting, "-t", f"{word}.", path.name], folder)
                yield f"flite_{voice}_{duration}", word, split, "flite", path


def _festival(folder: Path) -> Iterator[SpokenWord]:
    for voice, (split, durations, package) in FESTIVAL.items():
        for duration in durations:
            paths = {word: folder / f"festival_{voice}_{duration}_{word}.wav" for word in WORDS}
            lines = [f"(voice_{voice})", f"(Parameter.set 'Duration_Stretch {duration})"]
            for word, path in paths.items():
                lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{word}.")) "{path.name}" \'riff)')
            script = folder / f"{voice}_{duration}.scm"
            script.write_text("\n".join(lines))
            run_program(["festival", "-b", script.name], folder)
            for word, path in paths.items():
                yield f"festival_{voice}_{duration}", word, split, package, path


KEYWORDS_TTS = SetRecipe(
    name="keywords_tts",
    select=lambda _package, _name: False,
    build=_build,
    programs=("espeak-ng", "flite", "festival"),
    installed=("espeak-ng", "flite", "festival", "festvox-kdlpc16k", "festvox-us-slt-hts", "festvox-kallpc16k"),
)

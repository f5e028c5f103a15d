"""Words and phrases spoken by espeak-ng, each by every voice, so that neither tells the other."""

import random
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import read_audio
from pretrain.corpora.debian.programs import run_program
from pretrain.corpora.sets.labelled import fade, scale_to_peak, sha256_of
from pretrain.corpora.synthesizers.store import PREFIX, Sound

LANGUAGES_OF_SETS = frozenset(
    {
        *("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru"),  # stamps_language
        *("ar", "cs", "da", "de", "en", "fr", "he", "hu", "lt", "nb", "nds", "nl", "ru", "uk"),  # letters_language
        *("ml", "tn", "pt", "it", "es"),  # spoken_vowels
        *("en", "zh"),  # keywords_tts, mandarin_tone
    }
)
"""Languages of the labelled sets, in which nothing is spoken."""
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f3", "f4", "f5"),
    *("klatt", "klatt2", "klatt3", "klatt4", "klatt5", "Alex", "Andrea", "Annie", "Diogo", "Gene"),
    *("Henrique", "Hugo", "Jacky", "Lee", "Mario", "Michael", "adam", "antonio", "benjamin", "boris"),
    *("david", "ed", "edward", "iven", "john", "kaukovalta", "linda", "max", "michel", "miguel", "norbert", "pablo"),
    *("paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "travis", "victor", "zac"),
)
"""Variants of espeak-ng's voices. f2 and the voices without a variant are missing: valid of keywords_tts has them."""
SPEEDS, PITCHES = range(120, 191, 5), range(20, 81, 5)
WORDS, MIN_WORDS, WORD_SECONDS = 400, 4, 0.85
"""Most and fewest words of a language, and about how long one is."""
MIN_VOICES = 16
PHRASE_EVERY, PHRASE_WORDS = 20, (3, 5)
"""A voice speaks a phrase for each 20 words, of 3 to 5 of them."""
MIN_GAP_SECONDS, MARGIN_SECONDS = 0.3, 0.02
"""A shorter silence is inside a word or phrase; what is left at its ends."""


@dataclass(frozen=True)
class Voice:
    """A voice, which speaks every language."""

    variant: str
    speed: int
    """Words per minute."""
    pitch: int
    """From 0 to 99, as espeak-ng has it."""


def voices(seed: int) -> list[Voice]:
    """All voices, in an order, with pitches and speeds that the seed decides."""
    chosen = []
    for variant in sorted(VARIANTS, key=lambda name: sha256_of(f"voice {seed} {name}")):
        generator = random.Random(f"voice {seed} {variant}")
        chosen.append(Voice(variant, generator.choice(SPEEDS), generator.choice(PITCHES)))
    return chosen


def number_of_words(seconds: float) -> int:
    """So many words that about 16 voices speak all of them in ``seconds``, where they are not too few or too many."""
    return max(MIN_WORDS, min(WORDS, int(seconds / (MIN_VOICES * WORD_SECONDS))))


def speak(language: str, words: Sequence[str], seconds: float, seed: int, folder: Path) -> Iterator[Sound]:
    """Yield all words and some phrases by one voice after the other, until there are ``seconds`` of sound.

    Raises:
        ProgramError: espeak-ng failed.
    """
    spoken = 0.0
    for voice in voices(seed):
        generator = random.Random(f"phrases {seed} {language} {voice.variant}")
        counts = [generator.randint(*PHRASE_WORDS) for _ in range(len(words) // PHRASE_EVERY)]
        phrases = [" ".join(generator.sample(words, min(count, len(words)))) for count in counts]
        for text, samples in _speak(language, voice, [*words, *phrases], folder):
            spoken += len(samples) / SAMPLE_RATE
            yield Sound(f"{PREFIX}/{language}/{voice.variant}/{text}", samples)
        if spoken >= seconds:
            return


def _speak(language: str, voice: Voice, texts: Sequence[str], folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Speak texts as paragraphs of one file, which is cut at its silences.

    Where the number of sounds is not that of the texts, each half is spoken alone; a single text that is several sounds
    or none has no samples. (Only a silent text beside one that falls in two would pass.)
    """
    (folder / "texts").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    settings = ["-s", str(voice.speed), "-p", str(voice.pitch), "-b", "1"]
    run_program(
        ["espeak-ng", "-v", f"{language}+{voice.variant}", *settings, "-f", "texts", "-w", "spoken.wav"], folder
    )
    parts = split_at_silence(folder / "spoken.wav")
    if len(parts) == len(texts):
        yield from zip(texts, parts, strict=True)
    elif len(texts) == 1:
        yield texts[0], np.empty(0, np.float32)
    else:
        half = len(texts) // 2
        yield from _speak(language, voice, texts[:half], folder)
        yield from _speak(language, voice, texts[half:], folder)


def split_at_silence(path: Path) -> list[np.ndarray]:
    """The sounds between runs of zeros of at least 0.3 s in a WAV of 16 bits: (S,) samples at 16 kHz each."""
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        sounding = np.flatnonzero(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    if not len(sounding):
        return []
    gaps = np.flatnonzero(np.diff(sounding) > MIN_GAP_SECONDS * rate)
    firsts = sounding[np.concatenate(([0], gaps + 1))] / rate - MARGIN_SECONDS
    lasts = sounding[np.concatenate((gaps, [len(sounding) - 1]))] / rate + MARGIN_SECONDS
    samples = read_audio(path)
    edges = np.stack((firsts, lasts), axis=1).clip(0) * SAMPLE_RATE
    return [fade(scale_to_peak(samples[int(first) : int(last)])) for first, last in edges]

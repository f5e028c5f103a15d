"""The rules of the four labelled sets that are in no corpus."""

import csv
from collections import defaultdict

import numpy as np
import pytest

from pretrain.corpora import debian_probes
from pretrain.corpora.debian.deb import Source
from pretrain.corpora.debian.packages import LISTS, read_packages
from pretrain.corpora.sets import note_pitch
from pretrain.corpora.sets.animals_machines import ANIMALS_MACHINES, label_and_split
from pretrain.corpora.sets.labelled import SetFiles
from pretrain.corpora.sets.letters_language import LETTERS_LANGUAGE, letter_of
from pretrain.corpora.sets.note_pitch import pitch_name
from pretrain.corpora.sets.spoken_vowels import SPOKEN_VOWELS, vowel_of

FOLDER = "usr/share/klettres"


def melody(seed, seconds=0.4):
    """Twenty tones a second, which differ between seeds."""
    hz = np.random.default_rng(seed).uniform(100, 6000, int(20 * seconds)).repeat(800)
    return (0.3 * np.sin(2 * np.pi * np.cumsum(hz) / 16_000)).astype(np.float32)


def files_of(names, tmp_path, seconds=0.4):
    """Set files whose sounds all differ."""
    sources = [(package, Source(name, tmp_path / str(n), f"{n:064x}")) for n, (package, name) in enumerate(names)]
    return SetFiles(sources, lambda source: melody(int(source.path.name), seconds), tmp_path)


def test_no_package_of_the_sets_is_in_the_corpus_or_in_another_set():
    corpus = {package.package for package in read_packages(LISTS / "debian_audio.tsv")}
    used = {
        group: {package.package for name in names for package in debian_probes._packages(debian_probes.RECIPES[name])}
        for group, names in debian_probes.GROUPS.items()
    }
    programs = {"fluidsynth"}
    assert not used["beyond"] & (corpus | used["eight"] - programs)
    assert len(used["beyond"]) == 11


def test_two_sets_choose_and_two_are_read_at_the_end():
    assert debian_probes.TO_CHOOSE_WITH == ("spoken_vowels", "note_pitch")
    assert debian_probes.READ_AT_THE_END == ("letters_language", "animals_machines")


def test_the_group_stands_for_its_sets_and_the_default_is_the_eight(tmp_path, monkeypatch, capsys):
    made = []

    def make(recipe, *_):
        made.append(recipe.name)
        return defaultdict(int)

    monkeypatch.setattr(debian_probes, "make", make)
    assert debian_probes.main(["--out", str(tmp_path), "--sets", "beyond,drums", "--workers", "0"]) == 0
    assert made == [*debian_probes.GROUPS["beyond"], "drums"]
    made.clear()
    assert debian_probes.main(["--out", str(tmp_path), "--workers", "0"]) == 0
    assert made == debian_probes.GROUPS["eight"]


@pytest.mark.parametrize(
    ("syllable", "vowel"),
    [
        *(("ba", "a"), ("gue", "e"), ("qui", "i"), ("nno", "o"), ("lla", "a"), ("bhaa", "a"), ("beae", "e")),
        *(("thuu", "u"), ("choo", "o"), ("ai", None), ("bam", None), ("chee", None), ("ll", None), ("baha", None)),
    ],
)
def test_the_vowel_of_an_open_syllable_is_its_label(syllable, vowel):
    assert vowel_of(syllable) == vowel


def test_each_speaker_of_the_vowels_is_in_one_split(tmp_path):
    names = [
        ("klettres-data", f"{FOLDER}/{speaker}/syllab/{consonant}{vowel}.ogg")
        for speaker in ("ml", "tn", "pt_BR", "it", "es")
        for consonant in "bcdfg"
        for vowel in "ae"
    ]
    assert all(SPOKEN_VOWELS.select(*name) for name in names)
    assert not SPOKEN_VOWELS.select("klettres-data", f"{FOLDER}/es/alpha/a.ogg")
    clips = SPOKEN_VOWELS.build(files_of(names, tmp_path))
    assert len(clips) == 50
    splits = {(one.group, one.split) for one in clips}
    assert splits == {("ml", "train"), ("tn", "train"), ("pt_BR", "train"), ("it", "valid"), ("es", "test")}
    assert {one.label for one in clips} == {"a", "e"}


def test_languages_share_letters_and_no_letter_is_in_two_splits(tmp_path):
    assert letter_of("fr", "alpha", "a-2") == letter_of("en", "alpha", "C") == letter_of("nb", "alpha", "U0063") == "c"
    assert letter_of("hu", "alpha", "o2") == "o"
    assert letter_of("ar", "alpha", "a-02") == "ar a-02"
    assert letter_of("cs", "syllab", "ad-3") != letter_of("nl", "syllab", "ad-3")
    names = [
        ("klettres-data", f"{FOLDER}/{language}/alpha/{letter}.ogg")
        for language in ("de", "en", "es")
        for letter in [first + second for first in "abcdefgh" for second in "abcdef"]
    ]
    names = [name for name in names if LETTERS_LANGUAGE.select(*name)]
    assert len(names) == 96  # Spanish speaks the vowels
    clips = LETTERS_LANGUAGE.build(files_of(names, tmp_path))
    splits = defaultdict(set)
    for one in clips:
        splits[one.group].add(one.split)
    assert all(len(each) == 1 for each in splits.values())
    assert {one.label for one in clips} == {"de", "en"}


def test_the_letters_and_the_vowels_have_no_file_in_common():
    speakers = ("ml", "tn", "pt_BR", "it", "es", "ar", "cs", "da", "de", "en", "en_GB", "fr", "he", "hu", "lt", "nb")
    for speaker in speakers:
        name = f"{FOLDER}/{speaker}/syllab/ba.ogg"
        assert SPOKEN_VOWELS.select("klettres-data", name) != LETTERS_LANGUAGE.select("klettres-data", name)


def test_no_instrument_of_the_pitches_is_in_two_splits_and_keys_have_names():
    assert [pitch_name(key) for key in (48, 57, 61, 71)] == ["C3", "A3", "Cs4", "B4"]
    instruments = [name for names in note_pitch.SPLITS.values() for name in names]
    assert len(instruments) == len(set(instruments))


def test_the_classes_of_a_package_are_each_in_one_split():
    with (LISTS / "sets" / "animals_machines.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len({(row["label"], row["package"]) for row in rows}) == len(rows)
    splits = defaultdict(set)
    for row in rows:
        splits[row["label"]].add(row["split"])
    assert all(each == {"train", "valid", "test"} for each in splits.values())
    packages = {package.package for package in debian_probes._packages(ANIMALS_MACHINES)}
    assert {row["package"] for row in rows} == packages


@pytest.mark.parametrize(
    ("package", "name", "found"),
    [
        ("widelands-data", "usr/share/widelands/sound/animals/wolf_01.ogg", ("beast", "train")),
        ("widelands-data", "usr/share/widelands/sound/click.ogg", None),
        ("torcs-data", "usr/share/torcs/sound/ferrarif50.wav", ("engine", "train")),
        ("flightgear-data-base", "usr/share/flightgear/Sounds/thunder2.wav", ("weather", "test")),
        ("supertuxkart-data", "usr/share/supertuxkart/data/music/crash.ogg", None),
        ("supertuxkart-data", "usr/share/supertuxkart/data/sfx/rain.ogg", None),  # a package of the corpus has it, too
    ],
)
def test_the_name_of_a_recording_gives_its_class_and_split(package, name, found):
    assert label_and_split(package, name) == found
    assert ANIMALS_MACHINES.select(package, name) == (found is not None)


def test_a_long_recording_gives_excerpts_of_one_split(tmp_path):
    names = [
        ("torcs-data", "s/944.wav"),
        ("supertuxkart-data", "s/engine_large.ogg"),
        ("flightgear-data-base", "s/prop.wav"),
    ]
    clips = ANIMALS_MACHINES.build(files_of(names, tmp_path, seconds=25))
    assert {(one.group, one.split) for one in clips} == {
        ("s/944.wav", "train"),
        ("s/engine_large.ogg", "valid"),
        ("s/prop.wav", "test"),
    }
    assert len(clips) == 3 * 8
    assert all(len(one.samples) == 32_000 for one in clips)

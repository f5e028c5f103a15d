"""`python -m pretrain.corpora.synthesized`, with programs that beep where the real ones are not what is tested."""

import csv
import random
import shutil
import wave
import zlib
from collections import defaultdict
from pathlib import Path

import debian
import numpy as np
import pytest

from maeast_upstream.cli import run
from pretrain.corpora import synthesized
from pretrain.corpora.corpus.clip_labels import sets_of
from pretrain.corpora.corpus.shards import COLUMNS, OTHER_LABELS
from pretrain.corpora.debian.deb import ArchiveError
from pretrain.corpora.debian.packages import LISTS, read_packages
from pretrain.corpora.sets import letters_language, spoken_vowels, stamps_language
from pretrain.corpora.synthesizers import notes, speech
from pretrain.corpora.synthesizers.words import read_words
from pretrain.data.packing import pack

WORDS = [first + second + "ak" for first in "bdfgklmn" for second in "aeiou"]
RATE = 22_050


def write_wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


def beep(text, seconds=0.4):
    """A tone that differs between texts, then silence."""
    hz = 200 + zlib.crc32(text.encode()) % 3000
    tone = 8000 * np.cos(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)
    return np.concatenate((tone.round(), np.zeros(RATE // 2)))


@pytest.fixture
def programs(monkeypatch):
    """An espeak-ng and a csound that beep; the list of commands that they were started with."""
    started = []

    def run_program(command, folder):
        started.append(command)
        if command[0] == "espeak-ng":
            texts = (folder / "texts").read_text().strip().split("\n\n")
            write_wav(folder / "spoken.wav", np.concatenate([beep(command[2] + text) for text in texts]))
        else:
            lines = (folder / "notes.sco").read_text().splitlines()
            slots = int(float(lines[-2].split()[-1])) // 4
            write_wav(folder / "notes.wav", np.concatenate([beep(f"{lines[0]}{n}", 3.5) for n in range(slots)]))

    monkeypatch.setattr(speech, "run_program", run_program)
    monkeypatch.setattr(notes, "run_program", run_program)
    monkeypatch.setattr(synthesized.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(synthesized, "installed_version", lambda package: "1.0")
    return started


@pytest.fixture
def make(tmp_path, programs):
    """A function that makes a corpus of two languages and csound from a list whose words lie in the work folder."""
    work = tmp_path / "work"
    rows = [
        "wtest\t1\tCC0\tspeech\tpl\t\t",
        "hunspell-test\t1\tCC0\tspeech\ttr\t\t",
        "csound\t1\tLGPL\tinstrument\t\t\t",
    ]
    (tmp_path / "list.tsv").write_text(debian.LIST + "\n".join(rows) + "\n")
    words = "\n".join([*WORDS, "Proper", "no", "x-ray"])
    debian.write_deb(work / "packages", "wtest", {"./usr/share/dict/test": words.encode()}, "1")
    dictionary = "40\n" + "\n".join(f"{word}/AB" for word in WORDS)
    debian.write_deb(work / "packages", "hunspell-test", {"./usr/share/hunspell/t.dic": dictionary.encode()}, "1")

    def build(*options, out="out"):
        paths = ["--out", str(tmp_path / out), "--list", str(tmp_path / "list.tsv"), "--work", str(work)]
        return run(synthesized.main, [*paths, "--hours", "0.01", *options])

    return build


def rows_of(folder):
    with (folder / "manifest.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_corpus_has_the_shards_and_the_columns_of_the_other_corpus_and_can_be_packed(make, tmp_path):
    assert make() == 0
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == [*COLUMNS, *OTHER_LABELS]
    assert {row["version"] for row in rows} == {"csound 1.0", "1, espeak-ng 1.0"}
    assert {row["kind"] for row in rows} == {"speech", "instrument"}
    hours = sum(float(row["seconds"]) for row in rows) / 3600
    assert hours == pytest.approx(0.01, rel=0.35)
    assert len(pack(tmp_path / "out", tmp_path / "packed").lengths) == len(rows)


def test_every_voice_speaks_every_word_and_the_labels_say_which(make, tmp_path):
    assert make("--packages", "wtest,hunspell-test") == 0
    words = defaultdict(set)
    for row in rows_of(tmp_path / "out"):
        assert row["source"].split("/")[1] == row["language"]
        if row["word"]:
            words[row["speaker"]].add(row["word"])
    assert len(words) > 3
    assert len({frozenset(spoken) for spoken in words.values()}) == 1  # of both languages
    assert {word.partition(":")[0] for word in next(iter(words.values()))} == {"pl", "tr"}


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_words(make, tmp_path):
    digests = []
    for out, work, seed in (("a", "w1", "0"), ("b", "w2", "0"), ("c", "w3", "1")):
        shutil.copytree(tmp_path / "work" / "packages", tmp_path / work / "packages")
        assert make("--work", str(tmp_path / work), "--seed", seed, out=out) == 0
        digests.append([path.read_bytes() for path in sorted((tmp_path / out).glob("*.t*"))])
    assert digests[0] == digests[1]
    assert {row["word"] for row in rows_of(tmp_path / "a")} != {row["word"] for row in rows_of(tmp_path / "c")}


def test_a_second_run_continues_with_what_is_finished(make, tmp_path, programs):
    assert make() == 0
    first = (tmp_path / "out" / "manifest.tsv").read_bytes()
    programs.clear()
    for kept in (tmp_path / "work" / "clips").glob("hunspell-test.*.json"):
        kept.unlink()
    assert make() == 0
    assert {command[2].partition("+")[0] for command in programs} == {"tr"}
    assert (tmp_path / "out" / "manifest.tsv").read_bytes() == first


def test_what_is_missing_is_one_line_and_the_rest_is_made(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthesized.shutil, "which", lambda program: None if program == "csound" else program)
    assert make() == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: csound: not installed, its sounds are left out; apt-get install csound"
    assert {row["kind"] for row in rows_of(tmp_path / "out")} == {"speech"}
    monkeypatch.setattr(synthesized.shutil, "which", lambda program: None)
    assert make(out="none") == 1
    assert "no sounds; espeak-ng: not installed" in capsys.readouterr().err
    assert not (tmp_path / "none" / "manifest.tsv").exists()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("wfrench\t1\tCC0\tspeech\tfr\t\t", (), "wfrench: a labelled set has the language fr; choose another"),
        ("wpl\t1\tCC0\tspeech\t-w x\t\t", (), "language '-w x'; expected one, such as pl"),
        ("wpl\t1\tCC0\tmusic\tpl\t\t", (), "wpl: kind 'music'; expected speech or instrument"),
        ("wpl\t1\tCC0\tspeech\tpl\t\t", ("--hours", "0"), "--hours must be above 0, got 0"),
        ("wpl\t1\tCC0\tspeech\tpl\t\t", ("--hours", "nan"), "--hours must be above 0, got nan"),
        ("wpl\t1\tCC0\tspeech\tpl\t\t", ("--packages", "x"), "x: not in the list of packages, which has wpl"),
    ],
)
def test_what_cannot_be_made_is_one_line(tmp_path, capsys, row, options, message):
    (tmp_path / "list.tsv").write_text(f"{debian.LIST}{row}\n")
    status = run(synthesized.main, ["--out", str(tmp_path / "o"), "--list", str(tmp_path / "list.tsv"), *options])
    assert status == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_no_language_voice_or_package_is_that_of_a_set():
    packages = read_packages(LISTS / "synthesized.tsv")
    assert not {package.package for package in packages} & {
        package.package for package in read_packages(LISTS / "debian_audio.tsv")
    }
    assert not any(sets_of(package.package) for package in packages)
    of_sets = {name.partition("_")[0] for name in spoken_vowels.SPLITS}
    of_sets |= set(letters_language.NAME.pattern.partition("(")[2].partition(")")[0].split("|")) - {"en_GB"}
    of_sets |= set(stamps_language.NAME.pattern.partition("_desc_(")[2].partition(")")[0].split("|"))
    assert of_sets | {"en", "zh"} == speech.LANGUAGES_OF_SETS
    spoken = {package.language for package in packages if package.kind == "speech"}
    assert len(spoken) == 6
    assert not spoken & speech.LANGUAGES_OF_SETS
    assert "f2" not in speech.VARIANTS  # valid of keywords_tts


def test_notes_take_their_share_and_languages_the_same():
    packages = read_packages(LISTS / "synthesized.tsv")
    seconds = synthesized.seconds_of(packages, 8 * 3600)
    assert sum(seconds.values()) == pytest.approx(8 * 3600)
    assert seconds["csound"] == pytest.approx(0.15 * 8 * 3600)
    assert seconds["wpolish"] == seconds["hunspell-eu"] == pytest.approx(4080)
    assert synthesized.seconds_of(packages[:1], 60) == {"wpolish": 60}
    assert [speech.number_of_words(value) for value in (10, 4080, 1e6)] == [4, 300, 400]


def test_a_text_that_is_no_single_sound_is_left_out_alone(tmp_path, monkeypatch):
    def run_program(_, folder):
        texts = (folder / "texts").read_text().strip().split("\n\n")
        sounds = [beep(text) for text in texts for _ in range({"two": 3, "none": 0}.get(text, 1))]
        write_wav(folder / "spoken.wav", np.concatenate([np.zeros(9), *sounds]))

    monkeypatch.setattr(speech, "run_program", run_program)
    texts = ["one", "two", "three", "four", "none", "six"]
    spoken = dict(speech._speak("pl", speech.Voice("m1", 150, 50), texts, tmp_path))
    assert list(spoken) == texts
    assert [text for text, samples in spoken.items() if not len(samples)] == ["two", "none"]
    for text in ("one", "three", "four", "six"):
        assert len(spoken[text]) == pytest.approx(0.44 * 16_000, abs=400)
        peak = np.argmax(np.abs(np.fft.rfft(spoken[text], 1 << 16))) * 16_000 / (1 << 16)
        assert peak == pytest.approx(200 + zlib.crc32(text.encode()) % 3000, abs=3)


def test_fewer_words_are_a_part_of_more_and_latin_1_is_read(tmp_path):
    words = "\n".join([*WORDS, "żółty"]).encode()
    deb = debian.write_deb(tmp_path, "wtest", {"./usr/share/dict/test": words, "./usr/share/doc/x": b"longlonglong\n"})
    many, few = (read_words(deb, tmp_path, count, 0) for count in (41, 5))
    assert many[:5] == few
    assert sorted(many) == sorted([*WORDS, "żółty"])
    latin = debian.write_deb(tmp_path, "wlatin", {"./usr/share/dict/test": "köpa\nmåla/X\n".encode("latin-1")})
    assert sorted(read_words(latin, tmp_path, 2, 0)) == ["köpa", "måla"]
    with pytest.raises(ArchiveError, match="wlatin: 2 words of 4 to 9 letters, needed 3"):
        read_words(latin, tmp_path, 3, 0)
    with pytest.raises(ArchiveError, match="wnone: no list of words"):
        read_words(debian.write_deb(tmp_path, "wnone", {"./usr/share/doc/x": b"a"}), tmp_path, 1, 0)


def test_events_stay_within_the_keys_of_their_model_and_only_sure_pitches_are_named():
    generator = random.Random(1)
    names = defaultdict(int)
    for name, model in notes.MODELS.items():
        for _ in range(60):
            what, played = notes.draw_event(model, generator)
            names[what.split()[0]] += 1
            assert all(model.low <= note.key <= model.high for note in played), name
            assert max(note.start + note.seconds for note in played) < notes.SLOT_SECONDS - notes.RELEASE_SECONDS
            if what.startswith("note"):
                assert model.pitched
                assert [note.key for note in played] == [int(what.split()[1])]
    assert set(names) == {"note", "key", "interval", "chord", "phrase"}


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")
def test_espeak_speaks_each_word_as_one_sound_and_twice_the_same(tmp_path):
    words = ["kartofel", "stolica", "wrzesień", "chleb", "tata"]
    voice = speech.Voice("klatt3", 190, 30)
    first, second = (dict(speech._speak("pl", voice, [*words, "chleb tata stolica"], tmp_path)) for _ in range(2))
    assert all(3_000 < len(first[word]) < 20_000 for word in words)
    assert len(first["chleb tata stolica"]) > max(len(first[word]) for word in words)
    assert all((first[text] == second[text]).all() for text in first)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("csound"), reason="needs csound")
@pytest.mark.parametrize("name", [name for name, model in notes.MODELS.items() if model.pitched])
def test_csound_plays_the_key_that_the_label_says(tmp_path, name):
    model = notes.MODELS[name]
    keys = np.linspace(model.low, model.high, 5).round().astype(int).tolist()
    for brightness in (0.0, 0.5, 1.0):
        drawn = random.Random(1)
        drawn.uniform = lambda low, high, share=brightness: low + (high - low) * share
        samples = notes._render(name, [[notes.Played(0, 0.9, key)] for key in keys], drawn, Path(tmp_path))
        for slot, key in enumerate(keys):
            steady = samples[64_000 * slot + 1600 : 64_000 * slot + 6400]  # strings of high keys do not sound longer
            assert abs(12 * np.log2(fundamental(steady) / 440) + 69 - key) < 0.55


def fundamental(samples):
    """The frequency in Hz of the first peak of the autocorrelation that is nearly as high as the highest."""
    window = np.hanning(len(samples))
    both = [np.fft.irfft(np.abs(np.fft.rfft(signal, 1 << 15)) ** 2)[:400] for signal in (samples * window, window)]
    curve = both[0] / both[1]
    peaks = [lag for lag in range(8, 399) if curve[lag - 1] <= curve[lag] >= curve[lag + 1]]
    lag = next(lag for lag in peaks if curve[lag] > 0.93 * max(curve[lag] for lag in peaks))
    before, at, after = curve[lag - 1 : lag + 2]
    return 16_000 / (lag + 0.5 * (before - after) / (before - 2 * at + after))

"""`python -m pretrain.corpora.debian_probes`, its rules and its command, over made-up packages."""

import csv
import re
import shutil
import stat
import sys
from collections import Counter

import debian
import numpy as np
import pytest
from sounds import sweep

from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.labels import read_rows
from pretrain.corpora import debian_probes
from pretrain.corpora.debian.deb import Source
from pretrain.corpora.debian.packages import LISTS
from pretrain.corpora.debian.programs import ProgramError, run_program
from pretrain.corpora.sets import labelled
from pretrain.corpora.sets.channel import own_channel
from pretrain.corpora.sets.drums import DRUMS
from pretrain.corpora.sets.game_effects import label_of
from pretrain.corpora.sets.gm_instruments import _timidity_config
from pretrain.corpora.sets.labelled import (
    ClipCollector,
    LabelledClip,
    SetFiles,
    drop_near_copies,
    drop_small_classes,
    split_of,
)
from pretrain.corpora.sets.mandarin_tone import MANDARIN_TONE
from pretrain.corpora.sets.midi import Note, midi_file


def noise(seed, seconds=0.5):
    return np.random.default_rng(seed).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def clip(key, samples, label="a", split="train"):
    return LabelledClip(key, samples, label, split, "p", "")


@pytest.fixture
def tones(tmp_path):
    """The work folder with a made-up package of syllables: 12 of them, each in four tones by one speaker."""
    recordings = iter(debian.clips("tone", 48))
    files = {}
    for base in range(12):
        for tone in ("", "2", "3", "4"):
            data = next(recordings, None)
            if data:
                files[f"./usr/share/gcin/ogg/{chr(0x3105 + base)}{tone}/5.ogg"] = data
    files["./usr/share/gcin/ogg/x7/5.ogg"] = files["./usr/share/gcin/ogg/\u3105/9.ogg"] = b"not wanted"
    debian.write_deb(tmp_path / "work" / "packages", "gcin-voice", files, "0~20170223-3")
    return tmp_path


def probes(folder, *options):
    command = ["--out", str(folder / "out"), "--work", str(folder / "work"), "--workers", "0"]
    return debian_probes.main([*command, *options])


def test_a_set_is_written_as_maeast_probe_reads_it(tones, capsys):
    assert probes(tones, "--sets", "mandarin_tone") == 0
    folder = tones / "out" / "mandarin_tone"
    rows = read_rows(folder / "labels.csv", ["label", "split"])
    assert {label for label, _ in rows.values()} == {"tone1", "tone2", "tone3", "tone4"}
    splits = Counter(split for _, split in rows.values())
    assert f"{len(rows)} clips, {splits['train']} / {splits['valid']} / {splits['test']}" in capsys.readouterr().out
    syllables = {}
    for path, (_, split) in rows.items():
        assert np.abs(read_audio(path)).max() == pytest.approx(0.7, abs=0.15)
        assert syllables.setdefault(path.name.split("-")[1].split("_")[0], split) == split
    with (folder / "SOURCES.tsv").open(newline="") as file:
        (source,) = csv.DictReader(file, delimiter="\t")
    assert source["version"] == "0~20170223-3"
    assert {split: int(source[split]) for split in splits} == splits


def test_an_existing_set_is_kept_and_the_same_packages_give_the_same_bytes(tones, capsys):
    assert probes(tones, "--sets", "mandarin_tone") == 0
    shutil.copytree(tones / "out" / "mandarin_tone", tones / "first")
    (tones / "out" / "mandarin_tone" / "labels.csv").write_text("mine")
    assert probes(tones, "--sets", "mandarin_tone") == 0
    assert "mandarin_tone: exists already" in capsys.readouterr().out
    assert (tones / "out" / "mandarin_tone" / "labels.csv").read_text() == "mine"
    shutil.rmtree(tones / "out")
    assert probes(tones, "--sets", "mandarin_tone") == 0
    for path in (tones / "first").rglob("*.*"):
        again = tones / "out" / "mandarin_tone" / path.relative_to(tones / "first")
        assert again.read_bytes() == path.read_bytes()


def test_stopped_while_writing_leaves_no_set(tones, monkeypatch):
    encode, calls = labelled.encode_opus, []

    def stop(samples):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encode(samples)

    monkeypatch.setattr(labelled, "encode_opus", stop)
    with pytest.raises(KeyboardInterrupt):
        probes(tones, "--sets", "mandarin_tone")
    assert not list((tones / "out").iterdir())
    assert [path.name for path in (tones / "work").iterdir()] == ["packages"]


def test_sets_whose_packages_are_missing_are_named_and_the_others_are_made(tones, monkeypatch, capsys):
    program = tones / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'E: Could not resolve the archive' >&2\nexit 100\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (program.parent / "dpkg-deb").symlink_to(shutil.which("dpkg-deb"))
    monkeypatch.setenv("PATH", str(program.parent))
    assert probes(tones) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 7
    gone = "error: game_voices: hedgewars-data: no download (Could not resolve the archive); `apt-get update` may help"
    assert gone in errors
    assert any(
        line.startswith("error: keywords_tts: espeak-ng is not installed; apt-get install espeak-ng") for line in errors
    )
    assert [path.name for path in (tones / "out").iterdir()] == ["mandarin_tone"]
    with pytest.raises(ValueError, match="no set could be made; game_voices: hedgewars-data"):
        probes(tones, "--sets", "game_voices")
    with pytest.raises(ValueError, match="unknown set 'nope'; the sets are drums, game_effects"):
        probes(tones, "--sets", "nope")


def test_near_copies_are_removed_and_the_one_in_test_stays():
    sound, other = noise(1), noise(2)
    near = sound + noise(3) * 0.01
    kept = drop_near_copies([clip("a", near, split="train"), clip("b", sound, split="test"), clip("c", other)], 0.985)
    assert [one.key for one in kept] == ["b", "c"]
    half = clip("h", near[: len(near) // 2])
    assert len(drop_near_copies([clip("b", sound), half], 0.5)) == 2  # of another length


def test_copies_with_different_labels_are_both_removed():
    sound = noise(1)
    kept = drop_near_copies([clip("x", sound, "a"), clip("y", sound, "b"), clip("z", noise(2), "b")], 0.985)
    assert [one.key for one in kept] == ["z"]


def test_a_limit_within_a_split_keeps_copies_in_that_split_only():
    sound, near = noise(1), noise(1) + noise(3) * 0.03
    alone = drop_near_copies([clip("x", sound), clip("y", near)], 0.9, limit_in_split=0.99999)
    across = drop_near_copies([clip("x", sound), clip("y", near, split="test")], 0.9, limit_in_split=0.99999)
    assert (len(alone), [one.key for one in across]) == (2, ["y"])


def test_silence_is_trimmed_and_clips_have_one_peak():
    collected = ClipCollector()
    padded = np.concatenate([np.zeros(8000, np.float32), sweep(16_000, 0.5) * 0.1, np.zeros(8000, np.float32)])
    assert collected.add("quiet/one", padded, "a", "train", "p")
    assert not collected.add("short", padded[8000:8200], "a", "train", "p")
    assert not collected.add("silent", np.zeros(16_000, np.float32), "a", "train", "p")
    assert not collected.add("broken", None, "a", "train", "p")
    (one,) = collected.clips
    assert one.key == "quiet_one"
    assert np.abs(one.samples).max() == pytest.approx(0.7)
    assert 8000 <= len(one.samples) <= 8000 + 2 * 640 + 320
    assert one.samples[0] == one.samples[-1] == 0


def test_small_classes_are_removed():
    clips = [
        clip(f"{n}", noise(n), label, split) for label in "ab" for n, split in enumerate(("train", "valid", "test"))
    ]
    assert {one.label for one in drop_small_classes([*clips, clip("4", noise(4), "a")], 2, 1, 1)} == {"a"}


def test_the_split_of_a_group_depends_on_its_name_only():
    splits = Counter(split_of(str(n), "seed", 0.6, 0.15) for n in range(2000))
    assert splits["train"] == pytest.approx(1200, abs=80)
    assert splits["valid"] == pytest.approx(300, abs=50)
    assert split_of("x", "seed", 0.6, 0.15) == split_of("x", "seed", 0.6, 0.15)


def test_every_clip_of_the_stamps_has_its_own_channel():
    sound = sweep(16_000, 0.5)
    first, again, other = (own_channel(sound, key) for key in ("appleda", "appleda", "applede"))
    assert (first == again).all()
    assert np.corrcoef(first, other)[0, 1] < 0.99
    assert first.dtype == np.float32


@pytest.mark.parametrize(
    ("package", "name", "label"),
    [
        ("btanks-data", "usr/share/btanks/sounds/cow.ogg", "beast"),
        ("x-data", "sounds/big_explosion2.wav", "explosion"),
        ("x-data", "sounds/laser_explosion.wav", None),
        ("x-data", "sounds/lasergun.wav", "laser"),
        ("x-data", "music/explosion.wav", None),
        ("x-data", "sounds/readme.wav", None),
    ],
)
def test_the_name_of_an_effect_gives_its_label_if_it_matches_one_class(package, name, label):
    assert label_of(package, name) == label


@pytest.mark.parametrize(
    ("package", "name", "wanted"),
    [
        ("hydrogen-drumkits", "usr/share/hydrogen/data/drumkits/BJA_Pacific/bd_03.flac", True),
        ("hydrogen-drumkits", "usr/share/hydrogen/data/drumkits/Unknown/bd_03.flac", False),
        ("hydrogen-drumkits", "usr/share/hydrogen/data/drumkits/BJA_Pacific/cowbell.flac", False),
        ("sonic-pi-samples", "usr/share/sonic-pi/samples/sn_dub.flac", True),
        ("sonic-pi-samples", "usr/share/sonic-pi/samples/loop_kick.flac", False),
        ("lmms-common", "usr/share/lmms/samples/drums/snare01.ogg", True),
        ("lmms-common", "usr/share/lmms/samples/effects/snare01.ogg", False),
    ],
)
def test_drums_are_hits_of_the_known_kits(package, name, wanted):
    assert DRUMS.select(package, name) is wanted


def test_the_folder_of_a_syllable_gives_its_tone():
    assert MANDARIN_TONE.select("gcin-voice", "usr/ogg/\u31053/5.ogg")
    assert not MANDARIN_TONE.select("gcin-voice", "usr/ogg/\u31057/5.ogg")
    assert not MANDARIN_TONE.select("gcin-voice", "usr/ogg/\u31053/4.ogg")


def test_drums_split_by_kit(tmp_path):
    files, sounds = [], {}
    for kit, count in (("BJA_Pacific", 9), ("VariBreaks", 3), ("GMRockKit", 7)):
        for number in range(count):
            source = Source(f"kits/{kit}/kick_{number}.flac", tmp_path / f"{kit}{number}", f"{kit}{number}")
            files.append(("hydrogen-drumkits", source))
            sounds[source.path] = noise(len(sounds))
    clips = DRUMS.build(SetFiles(files, lambda source: sounds[source.path], tmp_path))
    assert {(one.group, one.split) for one in clips} == {
        ("BJA_Pacific", "train"),
        ("VariBreaks", "valid"),
        ("GMRockKit", "test"),
    }
    assert {one.label for one in clips} == {"kick"}


def test_a_timidity_configuration_gives_patches_and_no_command(tmp_path):
    text = """
dir /etc
source /etc/passwd
drumset 0
 25\tDrum_000/025_Snare_Roll.pat amp=100
bank 0
 0\tTone_000/000_Acoustic_Grand_Piano.pat\tamp=120 pan=center
 1\t../../../etc/passwd
 40 Tone_000/040_Violin
bank 1
 0 Tone_000/000_Acoustic_Grand_Piano.pat
"""
    names = ["Tone_000/000_Acoustic_Grand_Piano.pat", "Tone_000/040_Violin.pat", "Drum_000/025_Snare_Roll.pat"]
    files = {
        ("freepats", f"usr/share/midi/freepats/{name}"): Source(name, tmp_path / f"{number:06d}.pat", "")
        for number, name in enumerate(names)
    }
    lines = _timidity_config(text, files).splitlines()
    assert lines == ["bank 0", f"0 {tmp_path}/000000.pat\tamp=120 pan=center", f"40 {tmp_path}/000001.pat"]


def test_notes_are_three_seconds_apart():
    data = midi_file([Note(0, 60, 100), Note(73, 72, 80)])
    assert data[:4] == b"MThd"
    assert int.from_bytes(data[18:22], "big") == len(data) - 22
    first = b"\0\xc0\0" + b"\x60\x90\x3c\x64" + b"\x89\0\x80\x3c\x64" + b"\x8c\x60\xb0\x78\0"
    assert first in data
    assert 96 + (9 << 7) + (12 << 7) + 96 == 3 * 960


def test_the_error_of_a_failing_program_has_its_name_and_output(tmp_path):
    with pytest.raises(ProgramError, match=re.escape(f"{sys.executable}: exit status 3, no such voice")):
        run_program([sys.executable, "-c", "import sys; sys.stderr.write('no such\\nvoice'); sys.exit(3)"], tmp_path)
    with pytest.raises(ProgramError, match="not-there"):
        run_program(["not-there"], tmp_path)


def test_the_committed_tables_are_complete():
    for recipe in debian_probes.RECIPES.values():
        assert debian_probes._packages(recipe)
    with (LISTS / "sets" / "game_effects_splits.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    labels = {row["label"] for row in rows}
    assert len(labels) == 15
    known = {package.package for package in debian_probes._packages(debian_probes.RECIPES["game_effects"])}
    assert {row["package"] for row in rows} == known
    assert {row["split"] for row in rows} == {"train", "valid", "test"}


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="no espeak-ng here")
def test_a_word_is_spoken_by_the_installed_synthesiser(tmp_path):
    run_program(["espeak-ng", "-v", "en-us", "-w", "stop.wav", "stop"], tmp_path)
    assert len(read_audio(tmp_path / "stop.wav")) > 3000
    assert [path.name for path in tmp_path.iterdir()] == ["stop.wav"]

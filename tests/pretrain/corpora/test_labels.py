import csv
import re
from pathlib import Path

import pytest

from maeast_upstream.cli import run
from pretrain.corpora.corpus.clip_labels import LABEL_COLUMNS, MASKED, labels_of, sets_of
from pretrain.corpora.debian.packages import KINDS, LISTS, read_packages
from pretrain.corpora.labels import main

KNOWN = [
    (("asterisk-core-sounds-fr-g722", "s/sounds/fr_CA_f_June/vm.g722", "speech", "fr-ca"), "speech fr  June "),
    (("fillets-ng-data-cs", "sound/grail/cs/gr-m-jen.ogg", "speech", "cs"), "speech cs  fillets-cs-small "),
    (("fillets-ng-data-nl", "sound/hanoi/nl/v-mamja.ogg", "speech", "nl"), "speech nl  fillets-nl-big "),
    (("fillets-ng-data-nl", "sound/x/nl/rand-3-2-5.ogg", "speech", "nl"), "speech nl   "),
    (("ktuberling-data", "k/sounds/lt/egypt_well.ogg", "speech", "ca,lt"), "speech lt   "),
    (("nexuiz-data", "d.pk3!sound/player/fricka/coms/incoming.ogg", "effect", ""), "speech en  nexuiz-fricka "),
    (("nexuiz-data", "d.pk3!sound/player/fricka/player/pain1.ogg", "effect", ""), "effect   nexuiz-fricka cry of pain"),
    (("nexuiz-data", "d.pk3!sound/weather/rain_1.ogg", "effect", ""), "effect    rain"),
    (("oxygen-sounds", "s/Oxygen-Window-Move.ogg", "effect", ""), "effect    window"),
    (("hydrogen-drumkits-effects", "k/belofilms_GuitarStrums/Am.flac", "instrument", ""), "instrument  guitar  "),
    (("words", "a/unknown.wav", "speech", "en,de"), "speech    "),
    (("wpolish", "synthesized/pl/f3/mały", "speech", "pl"), "speech pl  espeak-ng-f3  pl:mały"),
    (("wpolish", "synthesized/pl/f3/mały kot śpi", "speech", "pl"), "speech pl  espeak-ng-f3"),
    (("csound", "synthesized/csound/pluck/note 60 7", "instrument", ""), "instrument  csound-pluck    60"),
    (("csound", "synthesized/csound/bell/key 60 7", "instrument", ""), "instrument  csound-bell"),
    (("csound", "synthesized/csound/pluck/chord 7", "instrument", ""), "instrument  csound-pluck"),
]


@pytest.mark.parametrize(("clip", "expected"), KNOWN)
def test_names_of_packages_and_files_tell_what_a_clip_is(clip, expected):
    assert " ".join(labels_of(*clip).values()).rstrip() == expected.rstrip()


HIDDEN = [
    ("soundtracks", ("wesnoth-1.16-music", "usr/music/loop.ogg", "music", "")),
    ("game_voices", ("hedgewars-data", "Data/Sounds/voices/Pirate/Ouch.ogg", "speech", "en,es,pl,ru,uk")),
    ("game_voices", ("hedgewars-data", "Data/Sounds/voices/Default_es/Ouch.ogg", "speech", "es")),
    ("stamps_language", ("tuxpaint-stamps-default", "stamps/animals/cow_desc_fr.ogg", "speech", "fr")),
    ("drums", ("hydrogen-drumkits", "kits/GuitarStrums/guitar.ogg", "instrument", "")),
    ("gm_instruments", ("fluid-soundfont-gm", "FluidR3_GM.sf2!0529-Guitar", "instrument", "")),
    ("game_effects", ("megaglest-data", "sounds/explosion1.wav", "effect", "")),
    ("mandarin_tone", ("gcin-voice", "ogg/3.ogg", "speech", "zh-TW")),
]


@pytest.mark.parametrize(("name", "clip"), HIDDEN)
def test_no_label_tells_the_answer_of_a_set(name, clip):
    assert name in sets_of(clip[0])
    labels = labels_of(*clip)
    assert labels["kind"] == clip[2]
    assert not any(labels[column] for column in MASKED)
    assert labels["language"] == ("zh" if name == "mandarin_tone" else "")


def test_every_package_that_a_set_is_made_of_is_masked():
    with (LISTS / "sets" / "packages.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) > 80
    names = ["x/explosion.wav", "sound/player/x/coms/a.ogg", "sounds/fr/guitar.ogg", "sounds/en_US_f_Allison/a.wav"]
    for row in rows:
        for kind in KINDS:
            for name in names:
                assert not any(labels_of(row["package"], name, kind, "fr")[column] for column in MASKED)


def test_the_rules_are_of_known_columns_kinds_and_packages():
    packages = [package.package for package in read_packages(LISTS / "debian_audio.tsv")]
    with (LISTS / "corpus" / "label_rules.tsv").open(newline="") as file:
        rules = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for rule in rules:
        assert rule["column"] in LABEL_COLUMNS
        assert rule["kind"] in KINDS
        assert not rule["package"] or any(re.fullmatch(rule["package"], package) for package in packages)


def write_manifest(path, columns="shard\tpath\tseconds\tpackage\tkind\tlanguage\tsource"):
    rows = [
        "c-0.tar\ta.opus\t1\toxygen-sounds\teffect\t\ts/alarm.ogg",
        "c-0.tar\tb.opus\t1\tbambam\teffect\t\tbell.wav",
    ]
    path.write_text("\n".join([columns, *rows]) + "\n")
    return str(path)


def test_the_command_writes_the_labels_of_a_manifest(tmp_path, capsys):
    out = tmp_path / "labels.tsv"
    assert run(main, [write_manifest(tmp_path / "manifest.tsv"), "-o", str(out)]) == 0
    assert out.read_text().splitlines() == [
        "clip\tkind\tlanguage\tinstrument\tspeaker\tsound\tword\tpitch",
        "c-0.tar/a.opus\teffect\t\t\t\talarm\t\t",
        "c-0.tar/b.opus\teffect\t\t\t\t\t\t",
    ]
    said = capsys.readouterr().out
    assert "sound: 1 of 2 clips, 1 classes: alarm 1" in said
    assert "masked: 1 clips of packages that a labelled set is made of" in said


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such file; expected the manifest.tsv of a corpus"),
        (lambda path: write_manifest(path, "a\tb\tc\td\te\tf\tg"), "no column shard; expected the manifest.tsv"),
        (lambda path: path.write_text("shard\tpath\tpackage\tkind\tlanguage\tsource\n"), "no clips below its header"),
        (lambda path: path.write_bytes(b"\0\1\2"), "no column shard"),
    ],
)
def test_what_is_no_manifest_is_one_line_and_writes_nothing(tmp_path, capsys, prepare, message):
    prepare(tmp_path / "manifest.tsv")
    assert run(main, [str(tmp_path / "manifest.tsv"), "-o", str(tmp_path / "labels.tsv")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path(tmp_path / "labels.tsv").exists()


def test_the_manifests_of_several_corpora_make_one_table(tmp_path):
    first = write_manifest(tmp_path / "manifest.tsv")
    (tmp_path / "second.tsv").write_text(
        "shard\tpath\tpackage\tkind\tlanguage\tsource\nc-0.tar\tc.opus\twpolish\tspeech\tpl\tsynthesized/pl/m1/kot\n"
    )
    out = tmp_path / "labels.tsv"
    assert run(main, [first, str(tmp_path / "second.tsv"), "-o", str(out)]) == 0
    assert out.read_text().splitlines()[-1] == "c-0.tar/c.opus\tspeech\tpl\t\tespeak-ng-m1\t\tpl:kot\t"
    assert len(out.read_text().splitlines()) == 4


def test_an_existing_table_is_replaced_only_when_asked(tmp_path, capsys):
    arguments = [write_manifest(tmp_path / "manifest.tsv"), "-o", str(tmp_path / "labels.tsv")]
    assert [run(main, arguments), run(main, arguments), run(main, [*arguments, "--force"])] == [0, 1, 0]
    assert "exists already; give --force" in capsys.readouterr().err


def test_the_manifest_itself_is_not_replaced(tmp_path, capsys):
    manifest = write_manifest(tmp_path / "manifest.tsv")
    before = Path(manifest).read_text()
    assert run(main, [manifest, "-o", f"{tmp_path}/./manifest.tsv", "--force"]) == 1
    assert "the manifest itself, which labels do not replace" in capsys.readouterr().err
    assert Path(manifest).read_text() == before

"""`python -m pretrain.corpora.debian_audio` over made-up packages, without a network."""

import csv
import json
import os
import stat
import tarfile
from pathlib import Path

import debian
import numpy as np
import pytest

from maeast_upstream.audio.reading import read_audio
from pretrain.corpora import debian_audio
from pretrain.corpora.corpus import clips as clips_of
from pretrain.corpora.corpus import pieces
from pretrain.corpora.corpus.choose import choose, even_shares
from pretrain.corpora.corpus.clips import CorpusClip
from pretrain.corpora.debian.packages import LISTS, read_excluded, read_packages
from pretrain.data.packing import pack

KICKS, WORDS, TOMS = debian.clips("kick", 5), debian.clips("seven", 4), debian.clips("tom", 3)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An apt-get that has nothing, before the real one."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture
def corpus(tmp_path, offline):
    """A list of two packages that lie in the work folder already; a function that builds the corpus."""
    packages = tmp_path / "work" / "packages"
    game = {f"./usr/games/fx/{n}.opus": data for n, data in enumerate(KICKS)}
    game |= {"./usr/games/say/a.opus": WORDS[0], "./usr/games/copy.opus": KICKS[0], "./usr/games/loop.opus": TOMS[0]}
    debian.write_deb(packages, "game", {**game, "./usr/broken.wav": b"RIFF nothing", "./usr/silence.wav": silence()})
    debian.write_deb(packages, "words", {f"./w/{n}.opus": data for n, data in enumerate([*WORDS, KICKS[1]])}, "2:3-1")
    rows = ["game\t1.0-1\tGPL-2+\teffect\t\t/say/=speech\tloop", "words\t2:3-1\tCC0\tspeech\ten\t\t"]
    (tmp_path / "list.tsv").write_text(debian.LIST + "\n".join(rows) + "\n")

    def build(*options, out="out", rows=()):
        with (tmp_path / "list.tsv").open("a") as file:
            file.writelines(f"{row}\n" for row in rows)
        paths = ["--out", str(tmp_path / out), "--list", str(tmp_path / "list.tsv"), "--work", str(tmp_path / "work")]
        return debian_audio.main([*paths, "--workers", "0", *options])

    return build


def silence():
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000), 16_000, format="WAV")
    return file.getvalue()


def manifest(folder):
    with (folder / "manifest.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_sound_is_written_once_with_its_origin(tmp_path, corpus, capsys):
    assert corpus() == 0
    rows = {(row["package"], row["source"]): row for row in manifest(tmp_path / "out")}
    sources = [("game", f"usr/games/fx/{n}.opus") for n in (1, 2, 3, 4)] + [("game", "usr/games/copy.opus")]
    sources += [("game", "usr/games/say/a.opus"), *(("words", f"w/{n}.opus") for n in (1, 2, 3))]
    assert set(rows) == set(sources)
    said = rows["game", "usr/games/say/a.opus"]
    assert (said["kind"], said["version"], said["licence"], said["language"]) == ("speech", "1.0-1", "GPL-2+", "")
    assert (rows["words", "w/1.opus"]["version"], rows["words", "w/1.opus"]["language"]) == ("2:3-1", "en")
    assert (said["instrument"], said["speaker"], said["sound"]) == ("", "", "")
    out = capsys.readouterr().out
    assert "left out: 3 repeat, 1 silent or too short, 1 unreadable" in out
    assert f"{len(sources)} clips" in out


def test_pretrain_reads_what_it_writes_and_the_sound_is_that_of_the_source(tmp_path, corpus):
    assert corpus() == 0
    packed = pack(tmp_path / "out", tmp_path / "packed", 0)
    rows = manifest(tmp_path / "out")
    assert sorted(packed.kinds.tolist()) == sorted(row["kind"] for row in rows)
    with tarfile.open(tmp_path / "out" / "corpus-00000.tar") as tar:
        row = next(row for row in rows if row["source"] == "w/2.opus")
        (tmp_path / "clip.opus").write_bytes(tar.extractfile(row["path"]).read())
        meta = json.loads(tar.extractfile(row["path"].replace(".opus", ".json")).read())
    assert meta["source"] == "w/2.opus"
    (tmp_path / "source.opus").write_bytes(WORDS[2])
    heard, given = read_audio(tmp_path / "clip.opus"), read_audio(tmp_path / "source.opus")
    assert len(heard) == len(given) == round(float(row["seconds"]) * 16_000)
    assert np.corrcoef(heard, given)[0, 1] > 0.95


def test_the_same_packages_give_the_same_bytes_with_more_processes_too(tmp_path, corpus):
    assert corpus() == 0
    again = ["--work", str(tmp_path / "work2"), "--workers", "2"]
    (tmp_path / "work2").mkdir()
    (tmp_path / "work2" / "packages").symlink_to(tmp_path / "work" / "packages")
    assert corpus(*again, out="again") == 0
    for name in ("corpus-00000.tar", "manifest.tsv", "summary.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_stopped_run_continues_where_it_was(tmp_path, corpus, monkeypatch):
    encode, calls = pieces.encode_opus, []

    def stop_in_second(samples):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return encode(samples)

    monkeypatch.setattr(pieces, "encode_opus", stop_in_second)
    with pytest.raises(KeyboardInterrupt):
        corpus()
    assert not list((tmp_path / "out").glob("*.t*"))
    assert [path.name.split(".")[0] for path in (tmp_path / "work/clips").glob("*.json")] == ["game"]
    monkeypatch.setattr(pieces, "encode_opus", lambda samples: calls.append(2) or encode(samples))
    assert corpus() == 0
    assert calls.count(2) == len(WORDS) + 1
    assert not list(tmp_path.rglob("*.part*"))
    assert not list((tmp_path / "work" / "unpacked").iterdir())


def test_sources_of_the_labelled_sets_stay_out(tmp_path, corpus, monkeypatch):
    import hashlib

    monkeypatch.setattr(
        debian_audio, "read_excluded", lambda _: frozenset(hashlib.sha256(data).hexdigest() for data in KICKS[:2])
    )
    assert corpus() == 0
    left = {row["source"] for row in manifest(tmp_path / "out")}
    assert not left & {"usr/games/fx/0.opus", "usr/games/fx/1.opus", "usr/games/copy.opus", "w/4.opus"}
    assert len(left) == 7


def test_a_package_that_is_gone_or_broken_is_named_and_the_rest_goes_on(tmp_path, corpus, capsys):
    (tmp_path / "work" / "packages" / "torn_1_all.deb").write_bytes(b"!<arch>\nnonsense")
    rows = ["gone\t1\tGPL\teffect\t\t\t", "torn\t1\tGPL\teffect\t\t\t"]
    assert corpus(rows=rows) == 3
    errors = capsys.readouterr().err.splitlines()
    assert "error: gone: no download (Unable to locate package); `apt-get update` may help" in errors
    assert any(line.startswith("error: torn_1_all.deb: ") for line in errors)
    assert len(manifest(tmp_path / "out")) == 9


def test_nothing_at_all_is_one_clear_error(tmp_path, offline, monkeypatch):
    (tmp_path / "list.tsv").write_text(debian.LIST + "gone\t1\tGPL\teffect\t\t\t\n")
    command = ["--out", str(tmp_path / "out"), "--list", str(tmp_path / "list.tsv")]
    with pytest.raises(ValueError, match=r"no clips; gone: no download \(Unable to locate package\)"):
        debian_audio.main(command)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="gone: no apt-get .* put gone_VERSION_all.deb into"):
        debian_audio.main(command)
    assert not list((tmp_path / "out").glob("*.tsv"))


def test_another_version_is_used_and_named_if_the_listed_one_is_not_available(tmp_path, corpus, caplog):
    debian.write_deb(tmp_path / "work" / "packages", "newer", {"a.opus": TOMS[1]}, "2-1")
    assert corpus(rows=["newer\t1-1\tGPL\teffect\t\t\t"]) == 0
    assert "newer: using version 2-1, the list has 1-1" in caplog.text
    assert next(row for row in manifest(tmp_path / "out") if row["package"] == "newer")["version"] == "2-1"


def test_fewer_hours_are_a_part_of_more_and_old_shards_go(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr("pretrain.corpora.corpus.shards.SHARD_BYTES", 30_000)
    assert corpus() == 0
    every = manifest(tmp_path / "out")
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert len(shards) > 1
    assert all((tmp_path / "out" / shard).stat().st_size <= 30_000 for shard in shards)
    (tmp_path / "out" / ".corpus-00000.tar.1.part.tar").write_bytes(b"of a killed run")
    assert corpus("--hours", "0.0003") == 0
    fewer = manifest(tmp_path / "out")
    assert 0 < len(fewer) < len(every)
    assert {row["path"] for row in fewer} < {row["path"] for row in every}
    assert {row["kind"] for row in fewer} == {"speech", "effect"}
    assert {path.name for path in (tmp_path / "out").glob("*.tar")} == {row["shard"] for row in fewer}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hours", "0"], "--hours must be above 0"),
        (["--packages", "nope"], "nope: not in the list of packages, which has alienblaster-data"),
        (["--list", "nowhere.tsv"], "nowhere.tsv: no such file"),
        (["--workers", "-1"], "--workers must be 0 or more"),
        (["--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        debian_audio.main(["--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("-o=x\t1\tGPL\teffect", "not the name and version"),
        ("../x\t1\tGPL\teffect", "not the name and version"),
        ("game\t1 2\tGPL\teffect", "not the name and version"),
        ("game\t1\tGPL\tnoise", "unknown kind 'noise'"),
        ("game\t1\tGPL\teffect\t\t(=music", "invalid pattern"),
        ("game\t1\tGPL\teffect\ngame\t1\tGPL\teffect", "lists game a second time"),
        ("", "no packages"),
    ],
)
def test_a_wrong_list_is_one_clear_error(tmp_path, row, message):
    (tmp_path / "list.tsv").write_text(f"{debian.LIST}{row}\n")
    with pytest.raises(ValueError, match=message):
        read_packages(tmp_path / "list.tsv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark_are_read(tmp_path, encoding):
    (tmp_path / "list.tsv").write_text(f"{debian.LIST}game\t1\tGPL\teffect\n", encoding=encoding)
    assert [package.package for package in read_packages(tmp_path / "list.tsv")] == ["game"]
    (tmp_path / "x.sha256").write_text("0" * 64 + "\r\n", encoding=encoding)
    assert read_excluded(tmp_path / "x.sha256") == {"0" * 64}


def test_the_committed_lists_are_whole():
    packages = read_packages(LISTS / "debian_audio.tsv")
    assert len(packages) == 110
    assert {package.kind for package in packages} == {"speech", "music", "effect", "instrument"}
    assert all(package.licence for package in packages)
    assert len(read_excluded(LISTS / "exclude.sha256")) == 2023


def test_long_files_are_cut_evenly_and_loud_ones_scaled():
    samples = np.sin(np.arange(16_000 * 50) / 5).astype(np.float32) * 2
    cut = list(pieces.cut(samples))
    assert [len(piece) for piece in cut] == [266_667, 266_667, 266_666]
    assert max(np.abs(piece).max() for piece in cut) == 1.0
    assert not list(pieces.cut(samples[:3999]))
    assert not list(pieces.cut(samples * 1e-4))


def test_an_encoding_has_the_fingerprint_of_its_source_and_another_sound_has_not(tmp_path):
    prints = set()
    for number, data in enumerate([*WORDS, *KICKS]):
        (tmp_path / f"{number}.opus").write_bytes(data)
        samples = read_audio(tmp_path / f"{number}.opus")
        prints.add(pieces.sound_fingerprint(samples))
        assert pieces.sound_fingerprint(samples) == pieces.sound_fingerprint(samples * 0.999)
    assert len(prints) == len(WORDS) + len(KICKS)


def test_kinds_share_the_hours_evenly_as_far_as_they_can():
    assert even_shares({"a": 1.0, "b": 10.0, "c": 10.0}, 9.0) == {"a": 1.0, "b": 4.0, "c": 4.0}
    assert even_shares({"a": 1.0, "b": 2.0}, 9.0) == {"a": 1.0, "b": 2.0}
    made = [
        CorpusClip("p", f"{kind}{n}", 0, 9.0, kind, "", "", 0, 0) for kind in ("speech", "music") for n in range(50)
    ]
    chosen = choose(made, 0.05)
    assert [clip.key for clip in chosen] == sorted(clip.key for clip in chosen)
    assert [sum(clip.kind == kind for clip in chosen) for kind in ("speech", "music")] == [10, 10]


def test_clips_of_another_format_are_not_used(tmp_path, corpus, monkeypatch):
    assert corpus() == 0
    monkeypatch.setattr(clips_of, "FORMAT", clips_of.FORMAT + 1)
    assert corpus() == 0
    assert len(list((tmp_path / "work" / "clips").glob("*.json"))) == 4
    assert Path(tmp_path / "out" / "manifest.tsv").exists()

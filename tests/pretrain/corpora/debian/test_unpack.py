"""Packages, game archives and sound fonts as they come, hostile ones too."""

import hashlib
import tarfile

import debian
import numpy as np
import pytest

from maeast_upstream.audio.reading import read_audio
from pretrain.corpora.debian import deb as debs
from pretrain.corpora.debian.archives import expand, is_sound
from pretrain.corpora.debian.deb import ArchiveError, UnpackFolder, read_deb


def everything(_):
    return True


def unpack(deb, folder, wanted=everything):
    unpacked = UnpackFolder(folder, deb.stem)
    return [inner for source in read_deb(deb, unpacked, is_sound) for inner in expand(source, unpacked, wanted)]


def test_selected_files_have_one_order_whatever_the_order_in_the_package(tmp_path):
    files = {"./usr/b/z.ogg": b"1", "./usr/a.wav": b"2", "./usr/b/a.ogg": b"3", "./usr/readme.txt": b"4"}
    backwards = dict(reversed(files.items()))
    deb, other = (debian.write_deb(tmp_path / d, "x", f) for d, f in (("1", files), ("2", backwards)))
    sources = read_deb(deb, UnpackFolder(tmp_path / "out", "x"), is_sound)
    assert [source.name for source in sources] == ["usr/a.wav", "usr/b/a.ogg", "usr/b/z.ogg"]
    assert [source.path.read_bytes() for source in sources] == [b"2", b"3", b"1"]
    assert [source.digest for source in sources] == [hashlib.sha256(data).hexdigest() for data in (b"2", b"3", b"1")]
    again = read_deb(other, UnpackFolder(tmp_path / "out2", "x"), is_sound)
    assert [(s.name, s.digest) for s in again] == [(s.name, s.digest) for s in sources]


def test_no_name_leads_out_of_the_folder_and_no_script_is_run(tmp_path):
    evil = {"../../evil.wav": b"1", "/etc/evil.wav": b"2", "a/../../../evil.wav": b"3", "x" * 300 + ".wav": b"4"}
    links = [("link.wav", "/etc/passwd", tarfile.SYMTYPE), ("hard.wav", "../../etc/passwd", tarfile.LNKTYPE)]
    devices = [("null.wav", "", tarfile.CHRTYPE), ("pipe.wav", "", tarfile.FIFOTYPE)]
    zipped = debian.zip_of({"../../../evil.wav": b"5", "/evil.ogg": b"6"})
    deb = debian.write_deb(tmp_path / "deb", "evil", {**evil, "g.pk3": zipped}, links=[*links, *devices])
    sources = unpack(deb, tmp_path / "a" / "b" / "out")
    assert sorted(source.path.read_bytes() for source in sources) == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert {source.path.parent for source in sources} == {tmp_path / "a" / "b" / "out"}
    outside = {path.name for path in tmp_path.rglob("*")} - {path.name for path in (tmp_path / "a/b/out").iterdir()}
    assert outside == {"deb", deb.name, "a", "b", "out"}


def test_a_hard_link_is_the_file_it_links_to(tmp_path):
    links = [("./b.wav", "./a.wav", tarfile.LNKTYPE)]
    sources = unpack(debian.write_deb(tmp_path, "x", {"./a.wav": b"data"}, links=links), tmp_path / "out")
    assert [(source.name, source.path.read_bytes()) for source in sources] == [("a.wav", b"data"), ("b.wav", b"data")]


@pytest.mark.parametrize("limit", ["MAX_FILE_BYTES", "MAX_PACKAGE_BYTES"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch, limit, zipped):
    monkeypatch.setattr(debs, "COPY_BYTES", 1000)
    files = {f"{n}.wav": bytes(30_000) for n in range(4)}
    deb = debian.write_deb(tmp_path, "bomb", {"g.zip": debian.zip_of(files)} if zipped else files)
    monkeypatch.setattr(debs, limit, 20_000 if limit == "MAX_FILE_BYTES" else 50_000)
    with pytest.raises(ArchiveError, match=r"^bomb_1.0-1_all: '.*\.wav' exceeds the limit"):
        unpack(deb, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 52_000


def test_more_files_than_a_package_may_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(debs, "MAX_FILES", 3)
    deb = debian.write_deb(tmp_path, "many", {f"{n}.wav": b"1" for n in range(5)})
    with pytest.raises(ArchiveError, match="more than 3 files"):
        unpack(deb, tmp_path / "out")


@pytest.mark.parametrize("cut", [4, 30, 200, 400, -300, -60])
def test_a_truncated_package_is_one_clear_error(tmp_path, cut):
    deb = debian.write_deb(tmp_path, "x", {"a.wav": np.random.default_rng(0).bytes(5000)})
    deb.write_bytes(deb.read_bytes()[:cut])
    with pytest.raises(ArchiveError, match=r"^x_1\.0-1_all\.deb: not a"):
        unpack(deb, tmp_path / "out")


def test_a_file_that_is_no_package_is_one_clear_error(tmp_path):
    (tmp_path / "x_1_all.deb").write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(ArchiveError, match=r"x_1_all\.deb: not a"):
        unpack(tmp_path / "x_1_all.deb", tmp_path / "out")


def test_files_in_game_archives_and_sound_fonts_are_found(tmp_path):
    (clip,) = debian.clips("kick", 1)
    font = debian.font_of(
        [
            ("Piano C4", debian.note(262), 22_050, 1),
            ("Right", debian.note(300), 22_050, 2),  # the right channel of a pair
            ("Short", debian.note(262)[:1000], 22_050, 1),
            ("Left!", debian.note(400), 44_100, 4),
        ]
    )
    files = {"g.pk3": debian.zip_of({"s/a.opus": clip, "s/a.txt": b"-"}), "f.sf2": font, "broken.zip": b"PK no zip"}
    sources = unpack(debian.write_deb(tmp_path, "x", files), tmp_path / "out")
    assert [source.name for source in sources] == ["f.sf2!0000-Piano_C4", "f.sf2!0003-Left", "g.pk3!s/a.opus"]
    assert sources[0].digest == hashlib.sha256(debian.note(262).tobytes()).hexdigest()
    assert len(read_audio(sources[0].path)) == pytest.approx(8000, abs=1)
    assert len(read_audio(sources[1].path)) == pytest.approx(4000, abs=1)
    assert read_audio(sources[2].path).any()


def test_a_broken_member_of_a_game_archive_does_not_affect_the_others(tmp_path):
    data = debian.zip_of({"a.wav": b"whole " * 500, "b.wav": b"broken " * 500})
    at = data.index(b"b.wav") + 8
    deb = debian.write_deb(tmp_path, "x", {"g.zip": data[:at] + b"\xff" * 6 + data[at + 6 :]})
    assert [source.name for source in unpack(deb, tmp_path / "out")] == ["g.zip!a.wav"]


def test_a_damaged_sound_font_does_no_harm(tmp_path):
    font = bytearray(debian.font_of([("A", debian.note(262), 22_050, 1)]))
    random = np.random.default_rng(0)
    for number in range(60):
        broken = font.copy()
        for place in random.integers(0, len(font), 40):
            broken[place] = random.integers(0, 256)
        broken[-100:] = random.bytes(100)
        deb = debian.write_deb(tmp_path, "x", {"f.sf2": bytes(broken[: random.integers(1, len(font))])})
        for source in unpack(deb, tmp_path / f"out{number}"):
            assert source.path.stat().st_size <= 2 * len(font)


def test_telephone_codecs_are_recognized_by_their_suffix(tmp_path):
    import av

    path = tmp_path / "prompt.g722"
    samples = debian.note(400, rate=16_000)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    heard = read_audio(path)
    assert len(heard) == pytest.approx(len(samples), abs=2)
    lag = int(np.argmax(np.correlate(heard[:4000], samples[:4000].astype(float), "full"))) - 3999
    assert 0 <= lag < 100
    assert np.corrcoef(heard[lag:4000], samples[: 4000 - lag])[0, 1] > 0.99

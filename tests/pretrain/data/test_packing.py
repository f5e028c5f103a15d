import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.packed import open_packed, packed_clips
from pretrain.data import packing
from pretrain.data.packing import pack

AUDIO = Path(__file__).parents[2] / "data" / "audio"
CLIPS = sorted(AUDIO.glob("*.opus"))[:3]


def copy_clips(folder):
    folder.mkdir()
    for path in CLIPS:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_files_is_decoded_in_order(tmp_path, workers):
    packed = pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", workers)
    assert len(packed.lengths) == 3
    assert packed.hours == pytest.approx(sum(packed.lengths) / 16_000 / 3600)
    for path, offset, length in zip(CLIPS, packed.offsets, packed.lengths, strict=True):
        clip = read_audio(path)
        assert length == len(clip)
        assert np.abs(packed.audio[offset : offset + length] / 32768 - clip.clip(-1, 1)).max() <= 1 / 32768


def test_folders_in_folders_and_capital_suffixes_are_searched(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    soundfile.write(tmp_path / "a" / "b" / "x.WAV", np.zeros(800), 16_000)
    (tmp_path / "notes.txt").write_text("not audio")
    assert pack(tmp_path, tmp_path / "packed", 0).lengths.tolist() == [800]


def test_a_broken_file_is_left_out_and_named(tmp_path, caplog):
    source = copy_clips(tmp_path / "clips")
    (source / "broken.wav").write_bytes(b"nothing")
    packed = pack(source, tmp_path / "packed", workers=1)
    assert len(packed.lengths) == 3
    assert len(packed.audio) == packed.lengths.sum()
    assert caplog.text.count("left out") == 1
    assert "broken.wav" in caplog.text


def test_a_corpus_is_decoded_once(tmp_path, monkeypatch):
    source = copy_clips(tmp_path / "clips")
    first = pack(source, tmp_path / "packed", 0)
    monkeypatch.setattr(packing, "_decode_task", None)
    again = pack(source, tmp_path / "packed", 0)
    assert (again.audio == first.audio).all()
    assert (again.lengths == first.lengths).all()


def test_what_another_corpus_was_decoded_into_is_refused_with_both_named(tmp_path):
    corpus, packed = copy_clips(tmp_path / "clips"), tmp_path / "packed"
    pack(corpus, packed, workers=0)
    with pytest.raises(ValueError, match=r"packed: decoded from .*clips, not .*other; give another"):
        pack(tmp_path / "other", packed, workers=0)
    moved = tmp_path / "moved"
    moved.mkdir()
    corpus.rename(moved / "clips")
    packed.rename(moved / "packed")
    assert len(pack(moved / "clips", moved / "packed", workers=0).lengths) == 3


def test_shards_are_read_with_their_kinds(tmp_path):
    clip = CLIPS[0].read_bytes()
    members = [
        ("a/x.1.json", json.dumps({"kind": "speech"}).encode()),
        ("a/x.1.opus", clip),
        ("a/y.opus", clip),
        ("a/z.opus", clip),
        ("a/y.json", b"{not json"),
        ("a/z.json", b"[1]"),
        ("readme.txt", b"hello"),
    ]
    write_shard(tmp_path / "b.tar", [("only.opus", clip)])
    write_shard(tmp_path / "a.tar", members)
    packed = pack(tmp_path, tmp_path / "packed", 0)
    assert packed.kinds.tolist() == ["speech", "", "", ""]
    names = [line.split("\t")[0] for line in (tmp_path / "packed" / "clips.tsv").read_text().splitlines()[1:]]
    assert names == [
        "a.tar/a/x.1.opus",
        "a.tar/a/y.opus",
        "a.tar/a/z.opus",
        "b.tar/only.opus",
    ]


def test_a_shard_that_breaks_off_gives_what_came_before(tmp_path, caplog):
    clip = CLIPS[0].read_bytes()
    write_shard(tmp_path / "a.tar", [("x.opus", clip), ("y.opus", clip)])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 512 + len(clip) + 1500])
    (tmp_path / "b.tar").write_bytes(b"not a tar file at all")
    assert len(pack(tmp_path, tmp_path / "packed", 0).lengths) == 1
    assert "left out: a.tar: not a whole tar file" in caplog.text
    assert "left out: b.tar: not a whole tar file" in caplog.text


def test_a_link_in_a_shard_is_left_out_and_named(tmp_path, caplog):
    write_shard(tmp_path / "a.tar", [("x.opus", CLIPS[0].read_bytes())])
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("y.opus")
        link.type, link.linkname = tarfile.SYMTYPE, "/data/y.opus"
        tar.addfile(link)
    failures = []
    assert len(pack(tmp_path, tmp_path / "packed", 0, failures).lengths) == 1
    assert len(failures) == 1
    assert "a.tar/y.opus" in failures[0]
    assert "link" in failures[0]


def test_stopped_while_decoding_leaves_no_final_name_and_begins_anew(tmp_path, monkeypatch):
    source = copy_clips(tmp_path / "clips")
    monkeypatch.setattr(packing, "FILES_PER_TASK", 1)
    decode = packing._decode_task

    def stop_at_last(task):
        if task[0][0].name == CLIPS[2].name:
            raise KeyboardInterrupt
        return decode(task)

    monkeypatch.setattr(packing, "_decode_task", stop_at_last)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "packed", 0)
    assert {path.suffix for path in (tmp_path / "packed").iterdir()} == {".part"}
    monkeypatch.setattr(packing, "_decode_task", decode)
    assert len(pack(source, tmp_path / "packed", 0).lengths) == 3
    assert not list((tmp_path / "packed").glob("*.part"))


def test_what_is_no_corpus_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        pack(tmp_path / "nowhere", tmp_path / "packed", 0)
    with pytest.raises(ValueError, match=r"holds neither \*\.tar shards nor audio files"):
        pack(tmp_path, tmp_path / "packed", 0)
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no file of .* could be decoded; the first: .*broken\.wav"):
        pack(tmp_path, tmp_path / "packed", 0)


def test_a_packed_corpus_that_is_not_whole_is_refused(tmp_path):
    pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 0)
    audio = tmp_path / "packed" / "audio.i16"
    audio.write_bytes(audio.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"audio\.i16 has \d+ bytes, clips\.tsv declares \d+; remove both"):
        open_packed(tmp_path / "packed")


def test_a_clip_whose_path_begins_as_a_formula_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("=1+1").mkdir()
    soundfile.write("=1+1/x.wav", np.zeros(800), 16_000)
    pack(Path("=1+1"), Path("packed"), 0)
    assert "\n'=1+1/x.wav\t" in Path("packed/clips.tsv").read_text()
    assert [name for name, *_ in packed_clips(Path("packed"))] == ["=1+1/x.wav"]

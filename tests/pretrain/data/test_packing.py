import contextlib
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maeast_upstream.audio.reading import DecodedAudio, read_audio
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.data.packed import is_packed, open_packed, packed_clips
from pretrain.data import packed_record, packing
from pretrain.data.clips import open_packed_clips
from pretrain.data.listing import list_corpus
from pretrain.data.packed_record import checksums_of, default_folder, left_out
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


def test_stopped_while_decoding_leaves_no_part_and_begins_anew(tmp_path, monkeypatch):
    source = copy_clips(tmp_path / "clips")
    monkeypatch.setattr(packing, "FILES_PER_TASK", 1)
    decode = packing._decode_task

    def stop_at_last(task, folder):
        if task[0][0].name == CLIPS[2].name:
            raise KeyboardInterrupt
        return decode(task, folder)

    monkeypatch.setattr(packing, "_decode_task", stop_at_last)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "packed", 0)
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {".lock"}
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


def test_the_notes_of_decoding_are_listed_beside_the_clips(tmp_path, monkeypatch, caplog):
    decoded = DecodedAudio(np.zeros(100, np.float32), ("no Xing header", "ends early"))
    monkeypatch.setattr(packing, "decode_audio", lambda source, join: decoded)
    pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 0)
    lines = (tmp_path / "packed" / "warnings.tsv").read_text().splitlines()
    assert lines[0] == "clip\twarning"
    assert lines[1:3] == [f"{tmp_path}/clips/{CLIPS[0].name}\t{note}" for note in decoded.notes]
    assert len(lines) == 7
    assert "6 warnings about clips that were decoded, in warnings.tsv" in caplog.text


def test_what_was_left_out_stays_listed_beside_the_clips(tmp_path):
    source = copy_clips(tmp_path / "clips")
    (source / "=broken.wav").write_bytes(b"nothing")
    pack(source, tmp_path / "packed", 0)
    ((name, reason),) = left_out(tmp_path / "packed")
    assert name == str(source / "=broken.wav")
    assert reason.startswith("not audio")


def test_tars_and_files_of_one_folder_at_any_depth_are_packed_and_hidden_ones_are_not(tmp_path):
    source = copy_clips(tmp_path / "clips")
    (source / "more").mkdir()
    for name in ("a.tar", "more/b.tar", "._a.tar"):
        write_shard(source / name, [("x.opus", CLIPS[0].read_bytes()), ("x.wav", b"same key, no audio")])
    (source / f"._{CLIPS[0].name}").write_bytes(b"macOS")
    failures = []
    assert len(pack(source, tmp_path / "packed", 0, failures).lengths) == 5
    assert [failure.partition(":")[0] for failure in failures] == ["a.tar/x.wav", "more/b.tar/x.wav"]


@pytest.mark.parametrize("change", ["added", "removed", "replaced"])
def test_a_copy_of_a_corpus_that_has_changed_is_refused_where_its_folder_was_given(tmp_path, change):
    source = copy_clips(tmp_path / "clips")
    pack(source, tmp_path / "packed", 0)
    if change == "added":
        (source / "new.opus").write_bytes(CLIPS[0].read_bytes())
    elif change == "removed":
        (source / CLIPS[0].name).unlink()
    else:
        (source / CLIPS[0].name).write_bytes(bytes(reversed(CLIPS[0].read_bytes())))
    before = (tmp_path / "packed" / "audio.i16").read_bytes()
    with pytest.raises(ValueError, match=r"has changed since it was packed \(.*\); remove .*packed to pack again"):
        pack(source, tmp_path / "packed", 0)
    assert (tmp_path / "packed" / "audio.i16").read_bytes() == before


def test_a_packed_copy_outlives_its_corpus(tmp_path, caplog):
    source = copy_clips(tmp_path / "clips")
    pack(source, tmp_path / "packed", 0)
    shutil.rmtree(source)
    assert len(pack(source, tmp_path / "packed", 0).lengths) == 3
    assert "not there to compare with" in caplog.text


def as_version_0_1(folder):
    """Turn a packed folder into what version 0.1 wrote."""
    source = json.loads((folder / "packed.json").read_text())["corpus"]
    for name in ("packed.json", "errors.tsv", "warnings.tsv", ".lock"):
        (folder / name).unlink()
    (folder / "source.txt").write_text(source)


@pytest.mark.parametrize("grown", [False, True])
def test_the_copy_that_0_1_left_in_the_corpus_is_used_while_it_is_current(tmp_path, caplog, grown):
    source = copy_clips(tmp_path / "clips")
    pack(source, source / "packed", 0)
    as_version_0_1(source / "packed")
    if grown:
        (source / "new.opus").write_bytes(CLIPS[0].read_bytes())
    folder = default_folder(list_corpus(source), tmp_path / "runs")
    assert (folder == source / "packed") is not grown
    assert ("older packed copy" in caplog.text) is grown
    assert len(pack(source, folder, 0).lengths) == 3 + grown


def test_without_a_place_of_its_own_a_copy_lies_beside_the_runs_and_a_changed_corpus_gets_another(tmp_path, caplog):
    source, runs = copy_clips(tmp_path / "clips"), tmp_path / "runs"
    first = default_folder(list_corpus(source), runs)
    assert first.parent == runs / "packed"
    assert first.name.startswith("clips-")
    pack(source, first, 0)
    assert default_folder(list_corpus(source), runs) == first
    (source / "new.opus").write_bytes(CLIPS[0].read_bytes())
    assert default_folder(list_corpus(source), runs) != first
    assert f"{first} is an older packed copy" in caplog.text


def test_each_block_has_the_checksum_of_its_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr(packed_record, "BLOCK_BYTES", 10_000)
    pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 0)
    data = (tmp_path / "packed" / "audio.i16").read_bytes()
    expected = [zlib.crc32(data[first : first + 10_000]) for first in range(0, len(data), 10_000)]
    assert json.loads((tmp_path / "packed" / "packed.json").read_text())["checksums"] == expected
    assert checksums_of(tmp_path / "packed" / "audio.i16") == expected


def test_damaged_samples_are_refused_with_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(packed_record, "BLOCK_BYTES", 1 << 20)
    source = tmp_path / "clips"
    source.mkdir()
    soundfile.write(source / "long.wav", np.random.default_rng(0).standard_normal(1_000_000) * 0.1, 16_000)
    pack(source, tmp_path / "packed", 0)
    assert open_packed_clips(tmp_path / "packed", check=True).digest
    with (tmp_path / "packed" / "audio.i16").open("r+b") as file:
        file.seek(1_500_000)
        file.write(b"\x55")
    with pytest.raises(ValueError, match=r"audio\.i16: its 1 MiB from byte 1048576 on are not what was packed"):
        open_packed_clips(tmp_path / "packed", check=True)


def test_a_record_that_is_none_is_one_line(tmp_path):
    pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 0)
    for text in ("", "[]", '{"corpus": 1}', '{"checksums": []}'):
        (tmp_path / "packed" / "packed.json").write_text(text)
        with pytest.raises(ValueError, match=r"packed\.json: not written by pretrain\.pack"):
            open_packed_clips(tmp_path / "packed", check=True)
    (tmp_path / "packed" / "packed.json").unlink()
    os.mkfifo(tmp_path / "packed" / "packed.json")
    with pytest.raises(ValueError, match=r"packed\.json: .*a pipe or device"):
        pack(tmp_path / "clips", tmp_path / "packed", 0)


def test_a_second_process_waits_for_the_first_and_says_so(tmp_path, caplog):
    source, packed = copy_clips(tmp_path / "clips"), tmp_path / "packed"
    packed.mkdir()
    with Process(
        "import sys; from pathlib import Path; from maeast_upstream.storage.lock import ProcessLock; "
        f"lock = ProcessLock(Path({str(packed / '.lock')!r}), ''); print(flush=True); sys.stdin.read()"
    ) as other:
        other.stdout.readline()
        waiting = threading.Thread(target=pack, args=(source, packed, 0))
        waiting.start()
        while "waiting for it" not in caplog.text:
            time.sleep(0.01)
        assert f"another process is packing into this folder (process {other.pid} on " in caplog.text
        assert not is_packed(str(packed))
        other.stdin.close()
        waiting.join()
    assert is_packed(str(packed))


class Process(subprocess.Popen):
    """A Python program with pipes."""

    def __init__(self, code):
        super().__init__([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packing._Checked, "write", write)
    with pytest.raises(OSError, match=r"could not be packed into .* \(No space left on device\); nothing .* make room"):
        pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 0)
    assert {path.name for path in (tmp_path / "packed").iterdir()} == {".lock"}


def test_a_decoding_process_that_was_killed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_decode_task", kill_this_process)
    with pytest.raises(OSError, match=r"a process that decodes .*clips was killed: give fewer --data\.workers"):
        pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 1)


def kill_this_process(task, folder):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_task_decodes_beyond_its_memory_goes_through_a_file_with_the_same_result(tmp_path, monkeypatch, workers):
    source = copy_clips(tmp_path / "clips")
    expected = pack(source, tmp_path / "expected", 0)
    monkeypatch.setattr(packing, "TASK_SAMPLES", len(expected.audio) // 3)
    packed = pack(source, tmp_path / "packed", workers)
    assert np.array_equal(packed.audio, expected.audio)
    assert np.array_equal(packed.lengths, expected.lengths)
    assert not list((tmp_path / "packed").glob("*.part"))


def test_a_file_longer_than_the_limit_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "MAX_HOURS", 2 / 3600)
    source = copy_clips(tmp_path / "clips")
    soundfile.write(source / "bomb.flac", np.zeros(5 * 16_000), 16_000)
    write_shard(source / "shard.tar", [("bomb.flac", (source / "bomb.flac").read_bytes())])
    failures = []
    with contextlib.suppress(ValueError):
        pack(source, tmp_path / "packed", 0, failures)
    assert f"{source}/bomb.flac: more than 0.000555556 hours of audio" in failures[-2:]
    assert "shard.tar/bomb.flac: more than 0.000555556 hours of audio" in failures


def test_what_a_killed_process_decoded_is_removed(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / f"tmp{packing.DECODED_SUFFIX}").write_bytes(b"samples")
    pack(copy_clips(tmp_path / "clips"), tmp_path / "packed", 0)
    assert not list((tmp_path / "packed").glob("*.part"))


def test_the_corpus_itself_is_no_place_for_its_copy(tmp_path):
    source = copy_clips(tmp_path / "clips")
    with pytest.raises(ValueError, match="the folder of the corpus itself"):
        pack(source, source, 0)
    with pytest.raises(ValueError, match="a file; give a folder for the packed copy"):
        pack(source, source / CLIPS[0].name, 0)
    with pytest.raises(ValueError, match=r"corpus .*opus: a file; give a folder of audio files or \*\.tar shards"):
        pack(source / CLIPS[0].name, tmp_path / "packed", 0)


def test_a_packed_copy_in_its_corpus_is_not_listed_a_second_time(tmp_path):
    source = copy_clips(tmp_path / "clips")
    pack(source, source / "packed", 0)
    files = [segment.path for segment in list_segments(source)]
    assert files == [str(source / clip.name) for clip in CLIPS]
    assert len(list(list_segments(source / "packed"))) == 3, "but where it is the input itself"
    as_version_0_1(source / "packed")
    assert len(list(list_segments(tmp_path))) == 3
    pack(source, tmp_path / "beside", 0)
    assert len(list(list_segments(tmp_path))) == 6

"""A process that is killed, stopped or answers nonsense costs no other file, and no file costs more than its limits."""

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from bad_files import wav_header
from decoding_runs import CLIPS, clips_named, decoding, gone, parent, soon
from sounds import tone

from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.data.inputs import Segment, list_segments
from maeast_upstream.decoding import DecodePool, bounded, process, protocol, stream, worker

KILLED = "the decoder process died (SIGKILL; perhaps memory ran out)"
MATES = ["a", "b", "c"]


def decode_among_mates(folder, name, **limits):
    """Decode a file between others in one batch; return its segment and result, after checks of the others."""
    segments = clips_named(folder / "clips", [*MATES, name, *(f"{mate}2" for mate in MATES)])
    with DecodePool(1, **limits) as pool:
        results = list(pool.decode(segments))
    assert [segment.path for segment, _ in results] == [segment.path for segment in segments]
    expected = read_audio(CLIPS[0])
    odd = results.pop(len(MATES))
    assert all(np.array_equal(result, expected) for _, result in results)
    return odd


@pytest.mark.parametrize("name", ["once kill", "once segfault", "once exit", "once within body SIGKILL"])
def test_a_file_whose_process_dies_once_is_decoded_in_a_new_one(tmp_path, evil, name):
    segment, result = decode_among_mates(tmp_path, name)
    assert np.array_equal(result, read_audio(CLIPS[0]))
    (note,) = segment.notes
    assert note.startswith("decoded at the second attempt; at the first, the decoder process died (")
    begun = [line.split(" ", 1) for line in evil.read_text().splitlines()]
    first, second = (pid for pid, begun_name in begun if begun_name.startswith(name))
    assert first != second
    assert next(begun_name for pid, begun_name in begun if pid == second).startswith(name)  # alone, before its mates


def test_a_file_that_kills_every_process_is_tried_twice(tmp_path, evil):
    segment, result = decode_among_mates(tmp_path, "kill")
    assert str(result) == f"{segment.path}: {KILLED}, twice"
    assert evil.read_text().count("kill.opus") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stop", *(f"within {place} SIGSTOP" for place in ("header", "body", "end"))])
def test_a_stopped_process_is_ended_by_the_time_limit_at_every_point_of_its_answer(tmp_path, evil, name):
    segment, result = decode_among_mates(tmp_path, name, limit_seconds=1.0)
    assert str(result) == f"{segment.path}: no answer within 1 s"
    assert evil.read_text().count(f"{name}.opus") == 1


@pytest.mark.slow
def test_a_process_that_is_stopped_while_it_starts_is_replaced(tmp_path, evil, monkeypatch):
    def start(limits, make=process._Process):
        # on a busy machine the process that replaces it may take longer than a second to start
        monkeypatch.setattr(process, "START_SECONDS", 300.0 if (tmp_path / "stop").exists() else 2.0)
        return make(limits)

    monkeypatch.setattr(process, "_Process", start)
    for deed in ("stop", "kill"):
        monkeypatch.setenv("EVIL_START", f"{deed}:{tmp_path / deed}")
        assert isinstance(decode_among_mates(tmp_path, "d")[1], np.ndarray)
    monkeypatch.setenv("EVIL_START", f"exit:{tmp_path / 'exit'}")
    with pytest.raises(RuntimeError, match=r"could not be started: the decoder process died \(exit status 3\)"):
        decode_among_mates(tmp_path, "d")


@pytest.mark.slow
def test_a_process_that_is_stopped_while_a_request_is_written_is_ended(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "b"])
    large = [Segment(segments[0].path, notes=("n" * 4_000_000,)), segments[1]]
    with DecodePool(1, limit_seconds=1.0) as pool:
        list(pool.decode(segments))
        os.kill(int(evil.read_text().split()[0]), signal.SIGSTOP)
        (_, late), (_, good) = pool.decode(large)
    assert str(late) == f"{segments[0].path}: no answer within 1 s"
    assert isinstance(good, np.ndarray)


ANSWERS = {
    "an unknown type": "answer 7 0 4",
    "too many samples": "answer 0 0 0xFFFFFFFFFFFFFFFC",
    "half a sample": "answer 0 0 6",
    "a long error": "answer 1 0 0xFFFFFFFF",
    "an error that is no text": "answer 1 0 100",
    "long notes": "answer 0 0xFFFFFFFF 4",
    "half a block": "answer 2 0 400",
    "blocks without end": "endless",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_process_that_answers_nonsense_costs_its_file_only(tmp_path, evil, answer):
    segment, result = decode_among_mates(tmp_path, ANSWERS[answer])
    assert str(result) == f"{segment.path}: the decoder process gave no valid answer, twice"


def test_a_pool_that_is_left_ends_processes_that_are_stopped(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "stop", "stop 2"])
    with DecodePool(2, limit_seconds=1000) as pool:
        results = pool.decode(segments)
        next(results)
        assert soon(lambda: evil.read_text().count("stop"))
    assert all(map(gone, decoding(evil)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what happens to stopped processes is Linux's")
def test_a_stopped_process_does_not_outlive_a_parent_that_was_killed(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "stop", "stop 2"])
    with parent(segments) as killed:
        assert soon(lambda: "stop" in evil.read_text())
        time.sleep(0.1)  # until it stops
        killed.kill()
        killed.wait()
        assert soon(lambda: all(map(gone, decoding(evil))))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_memory_beyond_the_limit_is_an_error_of_its_file_and_the_process_goes_on(tmp_path, evil):
    segment, result = decode_among_mates(tmp_path, "hog", memory_bytes=1 << 30)
    assert str(result) == f"{segment.path}: decoding it needs more memory than a decoder may have"
    assert len(decoding(evil)) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_lower_limit_of_memory_by_the_user_stays():
    code = """
import resource, sys
from maeast_upstream.decoding.worker import limit_memory
for own in ((300 << 20, resource.RLIM_INFINITY), (200 << 20, 200 << 20)):
    resource.setrlimit(resource.RLIMIT_DATA, own)
    limit_memory(2 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == own
sys.modules["resource"] = None
limit_memory(2 << 30)  # as on systems without limits
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_beyond_the_limit_is_one_error_that_says_how_long_it_is(tmp_path, workers):
    for name, seconds in (("short", 3.5), ("long", 6.0)):
        soundfile.write(tmp_path / f"{name}.flac", tone(8000, seconds), 8000)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "long.flac", "long.flac")
    (tmp_path / "m.csv").write_text("path,start,end\nlong.flac,0.5,4\nlong.flac,0.5,5.5\nlong.flac,,\n")
    segments = list(list_segments([tmp_path, tmp_path / "m.csv"]))
    with DecodePool(workers, max_hours=3.6 / 3600) as pool:
        results = [result for _, result in pool.decode(segments)]
    whole, short, member, first, second, third = results
    assert str(whole) == str(third)
    assert str(whole) == f"{tmp_path / 'long.flac'}: 0.0016667 hours of audio; the limit is 0.001 hours (--max-hours)"
    assert (len(short), len(first)) == (56_000, 56_000)
    assert f"{tmp_path / 'x.tar'}/long.flac: more than 0.001 hours of audio; the limit is 0.001" in str(member)
    assert "more than 0.001 hours" in str(second)


def test_a_recording_of_just_the_limit_passes_with_the_padding_of_its_encoder(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000, 4.0), 16000)
    with DecodePool(0, max_hours=3.6 / 3600) as pool:
        ((_, result),) = pool.decode([Segment(str(tmp_path / "a.wav"))])
    assert len(result) == 64_000


@pytest.mark.parametrize("max_hours", [0, -1, float("nan")])
def test_an_impossible_limit_of_hours_is_refused(max_hours):
    with pytest.raises(ValueError, match="max_hours above 0"):
        DecodePool(1, max_hours=max_hours)


@pytest.fixture
def tiny_memory(monkeypatch, tmp_path):
    """Let audio beyond 0.1 s go to temporary files; gives their folder, and leaves nothing in it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(bounded.tempfile, "tempdir", None)
    monkeypatch.setattr(bounded, "MEMORY_HOURS", 0.1 / 3600)
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", 800)
    monkeypatch.setenv("EVIL_BLOCK_SAMPLES", "800")
    yield tmp_path / "tmp"
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert temporary_files(tmp_path) == 0


def temporary_files(folder):
    """Return the number of deleted files of a folder that this process has mapped; each is open, too."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(f"{folder}/tmp/" in line and line.endswith("(deleted)") for line in lines)


@pytest.mark.parametrize("workers", [0, 1])
def test_long_audio_comes_in_a_temporary_file_that_lives_as_long_as_the_samples(tmp_path, evil, tiny_memory, workers):
    clips_named(tmp_path / "clips", ["a", "note", "c"])
    with tarfile.open(tmp_path / "clips" / "x.tar", "w") as tar:
        tar.add(CLIPS[1], "d.opus")
    soundfile.write(tmp_path / "clips" / "e.wav", tone(16000, 0.05), 16000)
    segments = list(list_segments([tmp_path / "clips"]))
    with DecodePool(workers) as pool:
        results = list(pool.decode(segments))
    assert results[3][0].notes == (("the first", "caf\udce9 the second") if workers else ())
    sources = [CLIPS[0], CLIPS[0], tmp_path / "clips" / "e.wav", CLIPS[0], CLIPS[1]]
    for (_, result), path in zip(results, sources, strict=True):
        assert type(result) is np.ndarray
        assert np.array_equal(result, read_audio(path))
        result[:] = 0  # it belongs to the caller
    assert temporary_files(tmp_path) == 4
    assert sum(len(result) for _, result in results) > 0


def test_long_audio_beyond_the_limit_leaves_no_temporary_file(tmp_path, tiny_memory):
    soundfile.write(tmp_path / "a.wav", tone(16000, 2.0), 16000)
    with DecodePool(0, max_hours=0.2 / 3600) as pool:
        ((_, result),) = pool.decode([Segment(str(tmp_path / "a.wav"))])
    assert "--max-hours" in str(result)
    assert temporary_files(tmp_path) == 0


@pytest.mark.parametrize("when", ["before", "while writing"])
def test_a_full_disk_is_an_error_of_its_file(tmp_path, tiny_memory, monkeypatch, when):
    (segment,) = clips_named(tmp_path / "clips", ["a"])
    if when == "before":
        monkeypatch.setattr(bounded.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1 << 40, 0, 1000))
    else:
        monkeypatch.setattr(bounded, "map_samples", full)
    with DecodePool(0) as pool:
        ((_, result),) = pool.decode([segment])
    reason = "0 MB are free" if when == "before" else os.strerror(errno.ENOSPC)
    assert str(result).startswith(
        f"{segment.path}: no space for its samples in {tiny_memory} ({reason}); set TMPDIR to"
    )


def full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_temporary_file_outlives_a_parent_that_was_killed(tmp_path, evil, tiny_memory):
    segments = clips_named(tmp_path / "clips", ["a", "hang", "b"])
    with parent(segments) as killed:
        assert soon(lambda: "hang" in evil.read_text())
        killed.kill()
        killed.wait()
        assert soon(lambda: all(map(gone, decoding(evil))))


@pytest.mark.slow
def test_a_small_file_of_many_hours_takes_little_memory(tmp_path):
    size = round(1.2 * 3600 * 16000) * 2
    (tmp_path / "long.wav").write_bytes(wav_header(16000, data_bytes=size))
    os.truncate(tmp_path / "long.wav", 44 + size)
    with DecodePool(1, ahead_seconds=60) as pool:
        ((_, result),) = pool.decode(list_segments([tmp_path / "long.wav"]))
        assert 2 * len(result) == size
        status = Path(f"/proc/{pool._decoders[0]._process._popen.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 700_000


def test_a_large_member_of_a_tar_is_read_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "MAX_MEMBER_BYTES", 1000)
    names = ["a.wav", "b.flac", "c.m4a.opus"]
    soundfile.write(tmp_path / "a.wav", tone(16000, 1), 16000)
    soundfile.write(tmp_path / "b.flac", tone(22050, 1), 22050)
    shutil.copy(CLIPS[0], tmp_path / names[2])
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            tar.add(tmp_path / name, name)
    segments = list(list_segments([tmp_path / "x.tar"]))
    for name, segment in zip(names, segments, strict=True):
        assert np.array_equal(worker.read_segment(segment), read_audio(tmp_path / name))
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[: segments[-1].offset + 500])
    with pytest.raises(AudioError, match="ends before this member; was it changed"):
        worker.read_segment(segments[-1])


def test_the_time_limit_of_a_large_file_is_bounded(tmp_path):
    with (tmp_path / "x.wav").open("wb") as file:
        file.truncate(1 << 42)
    assert process.Limits().seconds_of(Segment(str(tmp_path / "x.wav"))) == 24 * 3600
    assert process.Limits().seconds_of(Segment(str(CLIPS[0]))) < 61


def test_pools_leave_no_open_files(tmp_path):
    segments = clips_named(tmp_path / "clips", ["a"])
    counts = []
    for _ in range(3):
        with DecodePool(2) as pool:
            list(pool.decode(segments))
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[1] == counts[2]


def test_notes_and_errors_without_end_are_cut():
    assert len(protocol._encode("é" * protocol.MAX_TEXT_BYTES)) <= protocol.MAX_TEXT_BYTES

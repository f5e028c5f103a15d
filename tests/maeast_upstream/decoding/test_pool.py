"""Decoding ahead, in order; whatever happens to a process costs one file."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from bad_files import make_bad_files, write_sparse_wav
from decoding_runs import CLIPS, clips_named, decoding, gone, parent, soon
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import tone

from maeast_upstream.audio.reading import AudioError, DecodedAudio, read_audio
from maeast_upstream.data.inputs import Segment, list_segments
from maeast_upstream.data.packed import to_float
from maeast_upstream.decoding import protocol, worker
from maeast_upstream.decoding.pool import DecodePool


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_samples_come_in_order_equal_to_read_audio(workers):
    segments = [Segment(str(path)) for path in CLIPS]
    with DecodePool(workers) as pool:
        results = list(pool.decode(segments))
    assert [segment for segment, _ in results] == segments
    for segment, samples in results:
        assert samples.dtype == np.float32
        assert np.array_equal(samples, read_audio(segment.path))


@pytest.mark.parametrize("workers", [0, 2])
def test_segments_members_and_packed_clips_come_as_they_are(tmp_path, workers):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in CLIPS[:3]:
            tar.add(path, f"a b/{path.name}")
    pack(tmp_path / "packed", [tone(16000), tone(16000, hz=100)])
    (tmp_path / "m.csv").write_text(f"path,start,end\n{CLIPS[0]},0.1,0.2\n{CLIPS[1]},,\n")
    segments = list(list_segments([tmp_path / "shard.tar", tmp_path / "packed", tmp_path / "m.csv"]))
    with DecodePool(workers) as pool:
        results = [result for _, result in pool.decode(segments)]
    for path, result in zip(CLIPS[:3], results[:3], strict=True):
        assert np.array_equal(result, read_audio(path))
    assert results[3].dtype == np.int16
    assert np.abs(to_float(results[4]) - tone(16000, hz=100)).max() < 1e-4
    assert np.array_equal(results[5], read_audio(CLIPS[0])[1600:3200])
    assert np.array_equal(results[6], read_audio(CLIPS[1]))


def test_what_was_noticed_while_listing_and_decoding_comes_with_the_segment(tmp_path, evil, monkeypatch):
    plain, noted = clips_named(tmp_path / "clips", ["a", "note"])
    listed = replace(noted, notes=("noticed before",))
    with DecodePool(1) as pool:
        results = list(pool.decode([plain, listed, plain]))
    notes = ("noticed before", "the first", "caf\udce9 the second")
    assert [segment for segment, _ in results] == [plain, replace(noted, notes=notes), plain]
    assert all(np.array_equal(result, read_audio(CLIPS[0])) for _, result in results)
    decoded = DecodedAudio(read_audio(CLIPS[0]), ("in a thread",))
    monkeypatch.setattr(worker, "decode_segment", lambda segment, join: decoded)
    with DecodePool(0) as pool:
        ((segment, result),) = pool.decode([listed])
    assert segment == replace(noted, notes=("noticed before", "in a thread"))
    assert np.array_equal(result, decoded.samples)


def pack(folder, clips):
    folder.mkdir()
    samples = [(clip * 32767).round().astype(np.int16) for clip in clips]
    (folder / "audio.i16").write_bytes(b"".join(clip.tobytes() for clip in samples))
    rows = [f"clip{number}.wav\tmusic\t{len(clip)}\n" for number, clip in enumerate(samples)]
    (folder / "clips.tsv").write_text("clip\tkind\tsamples\n" + "".join(rows))


DEATHS = {
    "kill": "the decoder process died (SIGKILL; perhaps memory ran out), twice",
    "segfault": "the decoder process died (SIGSEGV), twice",
    "exit": "the decoder process died (exit status 3), twice",
    "hang": "no answer within 1 s",
    "spin": "no answer within 1 s",
    "fault": "RuntimeError: a fault in two lines",
    "memory": "decoding it needs more memory than a decoder may have",
}


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_happens_to_a_process_costs_its_file_only(tmp_path, evil, death, workers):
    names = [f"{number}" for number in range(5)] + [death] + [f"{number}" for number in range(6, 20)]
    segments = clips_named(tmp_path / "clips", names)
    expected = read_audio(CLIPS[0])
    with DecodePool(workers, limit_seconds=1.0) as pool:
        results = list(pool.decode(segments))
    assert [segment for segment, _ in results] == segments
    for number, (segment, result) in enumerate(results):
        if number == 5:
            assert isinstance(result, AudioError)
            assert str(result) == f"{segment.path}: {DEATHS[death]}"
        else:
            assert np.array_equal(result, expected)


@pytest.mark.slow
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    deeds=st.lists(
        st.sampled_from(["good", "good", "good", "kill", "exit", "fault", "bad"]),
        max_size=30,
    )
)
def test_any_sequence_of_fates_is_answered_in_order(tmp_path, evil, deeds):
    segments = clips_named(tmp_path / "clips", [f"{deed}{number}" for number, deed in enumerate(deeds)])
    for segment, deed in zip(segments, deeds, strict=True):
        if deed == "bad":
            Path(segment.path).write_text("nothing")
    with DecodePool(2, ahead_seconds=0.5) as pool:
        results = list(pool.decode(iter(segments)))
    assert [segment for segment, _ in results] == segments
    assert [isinstance(result, np.ndarray) for _, result in results] == [deed == "good" for deed in deeds]


def test_a_process_that_dies_between_files_is_replaced(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "b", "c"])
    with DecodePool(1) as pool:
        assert len(list(pool.decode(segments))) == 3
        pid = int(evil.read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        assert soon(lambda: gone(pid))
        assert all(isinstance(result, np.ndarray) for _, result in pool.decode(segments))


def test_decoding_stays_within_its_bound_ahead_of_the_reader(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", [f"{number}" for number in range(60)])
    seconds = len(read_audio(CLIPS[0])) / 16000
    with DecodePool(2, ahead_seconds=5 * seconds) as pool:
        results = pool.decode(segments)
        next(results)
        time.sleep(1.0)
        begun = len(evil.read_text().splitlines())
        # what waits, what was taken, and what each process has in its pipe (16 small files at most)
        assert begun <= 1 + 5 + 2 * 16
        assert pool._run._samples <= 16000 * seconds * (5 + 2)
        assert len(list(results)) == 59


def test_large_files_are_spread_over_the_processes(tmp_path, evil):
    for number in range(8):
        soundfile.write(tmp_path / f"slow{number}.wav", tone(16000, 20), 16000)
    with DecodePool(2) as pool:
        assert len(list(pool.decode(list_segments([tmp_path])))) == 8
    assert len({line.split()[0] for line in evil.read_text().splitlines()}) == 2


def test_a_pool_is_used_again_also_after_a_run_that_was_left(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "b", "hang", "c"])
    with DecodePool(2) as pool:
        left = pool.decode(segments)
        next(left)
        with pytest.raises(RuntimeError, match=r"one decode\(\) at a time"):
            next(pool.decode(segments))
        before = time.monotonic()
        left.close()
        assert time.monotonic() - before < 5
        good = segments[:2] + segments[3:]
        for _ in range(2):
            assert [segment for segment, result in pool.decode(good) if isinstance(result, np.ndarray)] == good


def test_leaving_the_pool_ends_its_processes(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "hang", "b"])
    with DecodePool(2, limit_seconds=1000) as pool:
        results = pool.decode(segments)
        next(results)
        assert soon(lambda: "hang" in evil.read_text())
    assert list(results) == []
    pids = {int(line.split()[0]) for line in evil.read_text().splitlines()}
    assert all(map(gone, pids))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_list_comes_after_what_was_listed(workers):
    def segments():
        yield Segment(str(CLIPS[0]))
        yield Segment("cut.tar", error="cut.tar: not a whole tar file")
        raise ValueError("m.tsv: row 3 has no path")

    with DecodePool(workers) as pool:
        results = pool.decode(segments())
        assert isinstance(next(results)[1], np.ndarray)
        assert str(next(results)[1]) == "cut.tar: not a whole tar file"
        with pytest.raises(ValueError, match="row 3 has no path"):
            next(results)


def test_processes_that_cannot_start_are_one_clear_error(monkeypatch):
    for program, reason in (
        ("/bin/false", r"exit status 1"),
        ("/nowhere", "No such file"),
    ):
        monkeypatch.setattr(sys, "executable", program)
        with (
            DecodePool(2) as pool,
            pytest.raises(RuntimeError, match=f"could not be started.*{reason}"),
        ):
            list(pool.decode([Segment(str(CLIPS[0]))]))


def test_what_is_no_text_in_sys_path_is_left_out_as_python_s_import_does(monkeypatch):
    monkeypatch.setattr(sys, "path", [Path("/nowhere"), *sys.path, b"/nowhere"])
    with DecodePool(1) as pool:
        ((_, result),) = pool.decode([Segment(str(CLIPS[0]))])
    assert np.array_equal(result, read_audio(CLIPS[0]))


@pytest.mark.parametrize(
    "options",
    [
        {"workers": -1},
        {"workers": 1, "ahead_seconds": 0},
        {"workers": 1, "limit_seconds": 0},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="expected workers from 0"):
        DecodePool(**options)


def test_nothing_to_decode_is_nothing():
    with DecodePool(2) as pool:
        assert list(pool.decode([])) == []


@pytest.mark.parametrize("deed", ["hang", "a"])
def test_no_process_outlives_a_parent_that_was_killed(tmp_path, evil, deed):
    segments = clips_named(tmp_path / "clips", ["a", "hang", f"{deed}2"])
    with parent(segments) as process:
        assert soon(lambda: "hang" in evil.read_text())
        process.kill()
        process.wait()
        assert soon(lambda: all(map(gone, decoding(evil))))


def test_ctrl_c_in_the_terminal_ends_the_parent_and_then_its_processes(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "hang1", "hang2"])
    with parent(segments) as process:
        assert soon(lambda: evil.read_text().count("hang"))
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline().strip() == "stopped"
        process.wait(10)
        assert soon(lambda: all(map(gone, decoding(evil))))


def test_a_process_ignores_ctrl_c_and_goes_on(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a", "slow", "b"])
    with DecodePool(1) as pool:
        results = pool.decode(segments)
        next(results)
        os.kill(int(evil.read_text().split()[0]), signal.SIGINT)
        assert all(isinstance(result, np.ndarray) for _, result in results)


@pytest.mark.parametrize("seconds", [600, pytest.param(3 * 3600, marks=pytest.mark.stress)])
def test_a_long_file_passes(tmp_path, seconds):
    write_sparse_wav(tmp_path / "long.wav", seconds)
    with DecodePool(1, ahead_seconds=60) as pool:
        results = [result for _, result in pool.decode(list_segments([tmp_path / "long.wav", CLIPS[0]]))]
    assert len(results[0]) == seconds * 16000
    assert np.array_equal(results[1], read_audio(CLIPS[0]))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_bad_file_has_its_reason_and_every_good_one_its_samples(tmp_path, workers):
    reasons = make_bad_files(tmp_path)
    with DecodePool(workers) as pool:
        results = {Path(segment.path).name: result for segment, result in pool.decode(list_segments([tmp_path]))}
    assert results.keys() == reasons.keys()
    for name, reason in reasons.items():
        if reason:
            assert isinstance(results[name], AudioError)
            assert reason in str(results[name])
            assert str(tmp_path / name) in str(results[name])
        else:
            assert isinstance(results[name], np.ndarray), results[name]
    spectrum = np.abs(np.fft.rfft(results["8channels.wav"]))
    assert abs(np.argmax(spectrum) * 16000 / len(results["8channels.wav"]) - 440) < 5


@pytest.mark.skipif(
    os.geteuid() == 0,
    reason="root may read everything; test_audio has this with a refusing system",
)
def test_a_file_without_permission_has_its_reason(tmp_path):
    shutil.copy(CLIPS[0], tmp_path / "x.opus")
    (tmp_path / "x.opus").chmod(0)
    with DecodePool(1) as pool:
        ((_, result),) = pool.decode([Segment(str(tmp_path / "x.opus"))])
    assert "cannot be read (Permission denied)" in str(result)


def test_names_with_any_bytes_come_through(tmp_path):
    names = [
        b"caf\xe9.opus",
        b"new\nline.opus",
        b" space .opus",
        "日本.opus".encode(),
        b'quo"te.opus',
    ]
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]  # noqa: PTH118
    for path in paths:
        shutil.copy(CLIPS[0], path)
        bad = path.replace(b".opus", b".wav")
        with open(bad, "wb") as file:  # noqa: PTH123
            file.write(b"nothing")
    with DecodePool(1) as pool:
        results = list(pool.decode(list_segments([tmp_path])))
    assert {os.fsencode(segment.path) for segment, result in results if isinstance(result, np.ndarray)} == set(paths)
    assert sum(isinstance(result, AudioError) for _, result in results) == len(paths)


def test_samples_that_do_not_fit_in_memory_are_an_error_of_their_file(tmp_path, monkeypatch):
    segments = clips_named(tmp_path / "clips", ["a", "b", "c"])
    empty, calls = np.empty, []

    def refuse(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return empty(*args, **options)

    monkeypatch.setattr(protocol.np, "empty", refuse)
    with DecodePool(1) as pool:
        results = [result for _, result in pool.decode(segments)]
    assert [isinstance(result, np.ndarray) for result in results] == [True, False, True]
    assert "its samples do not fit in memory (MemoryError); cut it into segments" in str(results[1])


def test_a_decoding_process_is_the_first_to_go_when_memory_runs_out(tmp_path, evil):
    segments = clips_named(tmp_path / "clips", ["a"])
    with DecodePool(1) as pool:
        list(pool.decode(segments))
        (pid,) = decoding(evil)
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"


def test_a_decoding_process_loads_no_torch():
    code = "import sys, maeast_upstream.decoding.pool; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_decoding_process_loads_only_what_it_needs():
    unneeded = ["torch", "pyarrow", "fsspec", "maeast_upstream.data.inputs", "maeast_upstream.decoding.pool"]
    code = f"import sys, maeast_upstream.decoding.worker; print([name for name in {unneeded} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

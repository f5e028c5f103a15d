"""Long audio comes block by block, with the samples, notes and errors that it has as a whole."""

import os
import signal
import tarfile
import time

import numpy as np
import pytest
import soundfile
import soxr
from decoding_runs import CLIPS, clips_named, decoding, gone, soon
from sounds import tone

from maeast_upstream.audio.backends import BLOCK_FRAMES
from maeast_upstream.audio.reading import AudioError, from_samples, read_audio
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.decoding import stream
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.decoding.stream import AudioStream, BlockJoin

BLOCK = 500


@pytest.fixture
def small_blocks(monkeypatch, evil):
    """Let what is longer than a 16th of a second come in blocks; gives the log of the processes."""
    monkeypatch.setattr(stream, "BLOCK_SAMPLES", BLOCK)
    monkeypatch.setenv("EVIL_BLOCK_SAMPLES", str(BLOCK))
    return evil


def read(result):
    """Return the samples of a stream whose blocks are as they should be."""
    assert isinstance(result, AudioStream)
    blocks = list(result)
    assert {len(block) for block in blocks[:-1]} == {BLOCK}
    assert 0 < len(blocks[-1]) <= BLOCK
    return np.concatenate(blocks)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_blocks_are_the_samples_of_the_whole_also_of_stereo_segments_and_members(tmp_path, small_blocks, workers):
    soundfile.write(tmp_path / "a.flac", np.stack([tone(44100, 1), tone(44100, 1, hz=300)], 1), 44100)
    soundfile.write(tmp_path / "short.wav", tone(16000, BLOCK / 16000), 16000)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(CLIPS[0], "b.opus")
    (tmp_path / "m.csv").write_text(f"path,start,end\n{CLIPS[1]},0.1,0.7\n{CLIPS[1]},0.6,0.9\n")
    segments = list(list_segments([tmp_path, tmp_path / "m.csv"]))
    with DecodePool(workers) as pool:
        found = {
            (segment.path, segment.number): result if isinstance(result, np.ndarray) else read(result)
            for segment, result in pool.stream(segments)
        }
        wholes = [result for _, result in pool.decode(segments)]
    assert all(np.array_equal(one, other) for one, other in zip(found.values(), wholes, strict=True))
    assert len(found) == 5
    assert len(found[str(tmp_path / "short.wav"), 0]) == BLOCK
    assert np.array_equal(found[str(tmp_path / "a.flac"), 0], read_audio(tmp_path / "a.flac"))
    assert np.array_equal(found[str(tmp_path / "x.tar" / "b.opus"), 0], read_audio(CLIPS[0]))
    assert np.array_equal(found[str(CLIPS[1]), 0], read_audio(CLIPS[1], 100, 700))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_audio_that_is_resampled_block_by_block_equals_what_is_resampled_at_once(tmp_path, rate):
    sound = tone(rate, 7.0, hz=997)
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")
    assert len(sound) > 3 * BLOCK_FRAMES or rate < 44100
    at_once = soxr.resample(sound, rate, 16000, quality="HQ")
    assert np.array_equal(read_audio(tmp_path / "a.wav"), from_samples(sound, rate))
    assert np.abs(read_audio(tmp_path / "a.wav") - at_once).max() < 1e-6


def test_notes_come_at_the_end_of_a_stream(tmp_path, small_blocks):
    (segment,) = clips_named(tmp_path, ["note"])
    with DecodePool(1) as pool:
        ((same, result),) = ((each, (read(found), found.notes)) for each, found in pool.stream([segment]))
    assert same == segment
    assert result[1] == ("the first", "caf\udce9 the second")


@pytest.mark.parametrize("deed", ["kill", "exit"])
def test_a_process_that_dies_within_a_stream_is_replaced_and_no_sample_comes_twice(tmp_path, small_blocks, deed):
    segments = clips_named(tmp_path, ["a", f"once late {deed}", "b"])
    with DecodePool(1) as pool:
        results = [(read(result), result.notes) for _, result in pool.stream(segments)]
    assert all(np.array_equal(samples, read_audio(CLIPS[0])) for samples, _ in results)
    ((note,),) = [notes for _, notes in results if notes]
    assert note.startswith("decoded at the second attempt; at the first, the decoder process died (")


FAILURES = {
    "late kill": "the decoder process died (SIGKILL; perhaps memory ran out), twice",
    "late fault": "RuntimeError: a fault in two lines",
    "late hang": "no answer within 1 s",
}


@pytest.mark.parametrize("name", [*list(FAILURES)[:2], pytest.param("late hang", marks=pytest.mark.slow)])
def test_a_stream_that_breaks_off_raises_after_its_blocks_and_costs_no_other_file(tmp_path, small_blocks, name):
    segments = clips_named(tmp_path, ["a", name, "b"])
    blocks = []
    with DecodePool(1, limit_seconds=1.0) as pool:
        results = pool.stream(segments)
        assert np.array_equal(read(next(results)[1]), read_audio(CLIPS[0]))
        with pytest.raises(AudioError, match="late") as raised:
            blocks.extend(next(results)[1])
        assert np.array_equal(read(next(results)[1]), read_audio(CLIPS[0]))
        results.close()
        (_, whole), _ = pool.decode(segments[1:])
    assert str(raised.value) == str(whole) == f"{segments[1].path}: {FAILURES[name]}"
    samples = np.concatenate(blocks)
    assert 0 < len(samples) < len(read_audio(CLIPS[0]))
    assert np.array_equal(samples, read_audio(CLIPS[0])[: len(samples)])


@pytest.mark.slow
def test_each_block_of_a_stream_has_the_time_limit_of_a_file(tmp_path, small_blocks):
    segments = clips_named(tmp_path, ["drip"])
    with DecodePool(1, limit_seconds=4.0, limit_seconds_per_mb=0) as pool:
        ((_, result),) = ((segment, read(found)) for segment, found in pool.stream(segments))
    assert np.array_equal(result, read_audio(CLIPS[0]))


def test_the_time_that_the_reader_takes_is_not_the_decoder_s(tmp_path, small_blocks):
    segments = clips_named(tmp_path, ["a"])
    with DecodePool(1, ahead_seconds=BLOCK / 16000, limit_seconds=0.6, limit_seconds_per_mb=0) as pool:
        ((_, result),) = ((segment, slowly(found)) for segment, found in pool.stream(segments))
    assert np.array_equal(result, read_audio(CLIPS[0]))


def slowly(blocks):
    taken = []
    for number, block in enumerate(blocks):
        if number < 3:
            time.sleep(0.4)
        taken.append(block)
    return np.concatenate(taken)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stream_waits_for_its_reader(tmp_path, small_blocks, workers):
    segments = clips_named(tmp_path, [str(number) for number in range(5)])
    assert len(read_audio(CLIPS[0])) > 6 * BLOCK
    with DecodePool(workers, ahead_seconds=2 * BLOCK / 16000) as pool:
        results = pool.stream(segments)
        _, result = next(results)
        assert soon(lambda: result.waiting == 2 * BLOCK)
        assert not soon(lambda: result.waiting > 2 * BLOCK, seconds=0.3)
        samples = [read(result), *(read(other) for _, other in results)]
    assert all(np.array_equal(each, read_audio(CLIPS[0])) for each in samples)


def test_several_processes_decode_long_files_at_a_time(tmp_path, small_blocks, monkeypatch):
    monkeypatch.setattr("maeast_upstream.decoding.pool.BATCH_SEGMENTS", 1)  # as for large files
    segments = clips_named(tmp_path, ["a", "b"])
    with DecodePool(2, ahead_seconds=3 * BLOCK / 16000) as pool:
        results = pool.stream(segments)
        next(results)
        assert soon(lambda: pool._run._order and getattr(pool._run._order[0].result, "is_whole", False))
        assert np.array_equal(read(next(results)[1]), read_audio(CLIPS[0]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_is_not_read_is_left_out_and_a_left_pool_ends(tmp_path, small_blocks, workers):
    segments = clips_named(tmp_path, ["a", "b", "c"])
    with DecodePool(workers, ahead_seconds=BLOCK / 16000) as pool:
        results = pool.stream(segments)
        next(iter(next(results)[1]))
        assert np.array_equal(read(next(results)[1]), read_audio(CLIPS[0]))
        next(iter(next(results)[1]))
        before = time.monotonic()
        results.close()
    assert time.monotonic() - before < 5


def test_a_stream_of_a_stopped_run_does_not_end_as_if_it_were_whole(tmp_path, small_blocks):
    segments = clips_named(tmp_path, ["a"])
    with DecodePool(1, ahead_seconds=BLOCK / 16000) as pool:
        _, result = next(pool.stream(segments))
    with pytest.raises(AudioError, match="stopped"):
        list(result)


def test_a_join_that_begins_again_sends_no_block_twice():
    sent, sound = [], np.arange(2.5 * stream.BLOCK_SAMPLES, dtype=np.float32)
    join = BlockJoin("a", 1.0, sent.append)

    def broken():
        yield sound[: 2 * stream.BLOCK_SAMPLES]
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        join(broken())
    rest = join(iter(np.array_split(sound, 7)))
    assert np.array_equal(np.concatenate([*sent, rest]), sound)


def test_a_join_that_begins_again_with_less_audio_does_not_repeat_its_end():
    sent, sound = [], np.arange(2.5 * stream.BLOCK_SAMPLES, dtype=np.float32)
    join = BlockJoin("a", 1.0, sent.append)
    join(iter([sound]))
    with pytest.raises(AudioError, match="a: changed while it was decoded"):
        join(iter([sound[: int(1.5 * stream.BLOCK_SAMPLES)]]))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_after_one_that_was_left_within_a_stream_has_all_samples(tmp_path, small_blocks, workers):
    segments = clips_named(tmp_path, ["a", "b"])
    with DecodePool(workers, ahead_seconds=2 * BLOCK / 16000) as pool:
        results = pool.stream(segments)
        next(iter(next(results)[1]))
        results.close()
        found = [read(result) for _, result in pool.stream(segments)]
    assert all(np.array_equal(samples, read_audio(CLIPS[0])) for samples in found)


def test_a_stopped_process_within_a_stream_is_ended_with_its_pool(tmp_path, small_blocks):
    segments = clips_named(tmp_path, ["a"])
    with DecodePool(1, ahead_seconds=BLOCK / 16000) as pool:
        results = pool.stream(segments)
        next(results)
        (pid,) = decoding(small_blocks)
        os.kill(pid, signal.SIGSTOP)
    assert gone(pid)

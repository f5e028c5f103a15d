"""A segment of a file is that slice of the whole."""

import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import FORMATS, sweep, wav_header, write

from maeast_upstream.audio import backends, ffmpeg, segments
from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.audio.reading import AudioError, decode_audio, read_audio
from maeast_upstream.audio.segments import SequentialReader
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.pool import DecodePool

SECONDS = 6.0
SAME_RATE = [suffix for suffix in FORMATS if suffix != "webm"]
"""libopus in webm puts out 48 kHz."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    for suffix in SAME_RATE:
        write(folder / f"16000.{suffix}", sweep(16000, SECONDS), 16000)
    for rate in (8000, 11025, 44100, 48000, 44101, 192000):
        write(folder / f"{rate}.wav", sweep(rate, SECONDS), rate)
    for suffix in ("flac", "mp3", "ogg", "m4a", "webm"):
        write(folder / f"48000.{suffix}", sweep(48000, SECONDS), 48000)
    return folder


@pytest.mark.parametrize("suffix", SAME_RATE)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(times=st.tuples(st.floats(0, 5900), st.floats(0.1, 4000)))
def test_at_16_khz_a_segment_is_exactly_the_slice_of_the_whole(folder, suffix, times):
    path = folder / f"16000.{suffix}"
    start, end = times[0], min(sum(times), 1000 * SECONDS)
    whole = read_audio(path)
    first = round(16 * start)
    assert np.array_equal(read_audio(path, start, end), whole[first : max(first + 1, round(16 * end))])


@pytest.mark.parametrize(
    "name",
    ["8000.wav", "11025.wav", "44100.wav", "48000.wav", "44101.wav", "192000.wav"]
    + [f"48000.{suffix}" for suffix in ("flac", "mp3", "ogg", "m4a", "webm")],
)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(times=st.tuples(st.floats(0, 5900), st.floats(1, 4000)))
def test_at_other_rates_a_segment_is_the_slice_within_1e_5(folder, name, times):
    start, end = times[0], min(sum(times), 1000 * SECONDS - 10)
    whole = read_audio(folder / name)
    first = round(16 * start)
    expected = whole[first : max(first + 1, round(16 * end))]
    segment = read_audio(folder / name, start, end)
    assert len(segment) == len(expected)
    assert np.abs(segment - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["16000.wav", "16000.opus", "44100.wav", "16000.m4a"])
def test_an_end_a_little_past_the_file_is_its_end_with_a_note_and_a_later_one_is_refused(folder, name):
    whole = read_audio(folder / name)
    length = len(whole) / 16
    assert np.allclose(read_audio(folder / name, 1000), whole[16000:], atol=1e-5)
    rounded = decode_audio(folder / name, 1000, length + 15)
    assert np.allclose(rounded.samples, whole[16000:], atol=1e-5)
    assert rounded.notes == ()
    cut = decode_audio(folder / name, 1000, length + 950)
    assert np.allclose(cut.samples, whole[16000:], atol=1e-5)
    (note,) = cut.notes
    assert re.fullmatch(r"the segment ends 9[45]\d ms after the end of its file, at 6\d\d\d ms; it was cut there", note)
    with pytest.raises(AudioError, match=rf"{name}: \d+ ms long; a segment cannot end at"):
        read_audio(folder / name, 1000, length + 1050)


def test_a_long_segment_may_end_a_tenth_of_it_past_its_file(tmp_path):
    write_sparse_wav(tmp_path / "x.wav", 95, 1000)
    decoded = decode_audio(tmp_path / "x.wav", 0, 105_000)
    assert len(decoded.samples) == 95 * 16000
    assert "ends 10000 ms after the end of its file" in decoded.notes[0]
    with pytest.raises(AudioError, match="95000 ms long; a segment cannot end at 106000 ms"):
        decode_audio(tmp_path / "x.wav", 0, 106_000)


@pytest.mark.parametrize("name", ["16000.wav", "16000.flac", "16000.opus", "44100.wav", "16000.m4a"])
@pytest.mark.parametrize("beyond", [0.0, 5000.0])
def test_a_start_at_or_past_the_end_is_refused(folder, name, beyond):
    length = len(read_audio(folder / name)) / 16
    with pytest.raises(
        AudioError,
        match=rf"{name}: \d+ ms long; a segment cannot start at",
    ):
        read_audio(folder / name, length + beyond)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (5, 4), (float("nan"), 5), (0, float("nan"))])
def test_times_that_make_no_segment_are_refused(folder, start, end):
    with pytest.raises(AudioError, match=r"16000\.wav: a segment from .* expected 0 <= start < end"):
        read_audio(folder / "16000.wav", start, end)


def test_what_lies_past_a_segment_is_not_looked_at(tmp_path):
    path = tmp_path / "x.wav"
    samples = (sweep(16000, 2) * 32767).astype("<i2")
    path.write_bytes(wav_header(data_bytes=10 * samples.nbytes) + samples.tobytes())
    decoded = decode_audio(path, 500, 1500)
    assert len(decoded.samples) == 16000
    assert decoded.notes == ()
    assert "cut short: 640000 bytes of samples declared, 64000 found" in decode_audio(path, 500, 2500).notes


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000, 44101])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 30.0])
def test_resampling_by_blocks_equals_resampling_at_once(tmp_path, monkeypatch, rate, seconds):
    import soxr

    samples = sweep(rate, seconds)
    soundfile.write(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
    monkeypatch.setattr(sys.modules["maeast_upstream.audio.backends"], "BLOCK_FRAMES", 50_000)
    at_once = soxr.resample(samples, rate, SAMPLE_RATE)
    by_blocks = read_audio(tmp_path / "x.wav")
    assert len(by_blocks) == len(at_once)
    assert np.abs(by_blocks - at_once).max() < 1e-6


MEASURE = """
import sys
from maeast_upstream.audio import read_audio
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
read_audio(sys.argv[1], 0, 1000)
before = peak()
samples = read_audio(sys.argv[1])
print(peak() - before, samples.nbytes / 2**20)
"""


def grown_mib(path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(float, done.stdout.split()))


def write_sparse_wav(path, seconds, rate=44100):
    """Silence that takes no room on the disk."""
    data = int(seconds * rate) * 2
    path.write_bytes(wav_header(rate, data_bytes=data))
    with path.open("r+b") as file:
        file.truncate(44 + data)


@pytest.mark.slow
def test_half_an_hour_at_44_khz_takes_little_more_memory_than_its_result(tmp_path):
    write_sparse_wav(tmp_path / "x.wav", 1800)
    grown, result = grown_mib(tmp_path / "x.wav")
    assert grown < result + 80


@pytest.mark.stress
def test_3_hours_at_44_khz_take_little_more_memory_than_their_result(tmp_path):
    write_sparse_wav(tmp_path / "x.wav", 3 * 3600)
    grown, result = grown_mib(tmp_path / "x.wav")
    assert grown < result + 80


@pytest.mark.parametrize(
    "name",
    [f"16000.{suffix}" for suffix in SAME_RATE] + ["48000.mp3", "48000.webm", "44100.wav"],
)
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_segments_one_after_the_other_are_those_read_alone(folder, name, data):
    times = st.tuples(st.integers(0, 6500), st.integers(-5, 2500))
    file = SequentialReader(str(folder / name))
    for start, length in data.draw(st.lists(times, min_size=1, max_size=8)):
        try:
            expected = read_audio(folder / name, start, start + length)
        except AudioError as error:
            with pytest.raises(AudioError) as caught:
                file.read(start, start + length)
            assert str(caught.value) == str(error)
        else:
            assert np.array_equal(file.read(start, start + length).samples, expected)
    file.close()


@pytest.mark.parametrize("suffix", ["mp3", "m4a", "wav"])
def test_segments_in_their_order_decode_the_file_once(folder, suffix, monkeypatch):
    opened, original = [], segments.open_audio
    monkeypatch.setattr(segments, "open_audio", lambda *args: (opened.append(args), original(*args))[1])
    monkeypatch.setattr(segments, "KEPT_SECONDS", 2)
    monkeypatch.setattr(backends, "BLOCK_FRAMES", 8000)
    monkeypatch.setattr(ffmpeg, "BLOCK_SAMPLES", 8000)
    file = SequentialReader(str(folder / f"16000.{suffix}"))
    for start in range(0, 5000, 500):
        assert len(file.read(start, start + 1000).samples) == 16000
    assert len(opened) == (10 if suffix == "wav" else 1)
    file.read(0, 1000)
    assert len(opened) == (11 if suffix == "wav" else 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_was_replaced_between_its_segments_is_read_anew(tmp_path, workers):
    path = tmp_path / "x.mp3"
    with DecodePool(workers) as pool:
        for seconds in (2, 3):
            write(path, sweep(16000, seconds), 16000)
            results = [result for _, result in pool.decode(Segment(str(path), n, n, n + 500) for n in (0, 100, 1500))]
            expected = [read_audio(path, n, n + 500) for n in (0, 100, 1500)]
            assert all(map(np.array_equal, results, expected))
        path.write_text("nothing")
        ((_, result),) = pool.decode([Segment(str(path), 0, 0, 500)])
        assert "x.mp3: not audio" in str(result)
        path.unlink()
        ((_, result),) = pool.decode([Segment(str(path), 0, 0, 500)])
        assert str(result) == f"{path}: no such file"

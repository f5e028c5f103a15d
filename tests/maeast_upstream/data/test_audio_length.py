"""How long audio is thought to be, from sizes and headers."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maeast_upstream.data.audio_length import UNKNOWN_SECONDS, AudioLength, bytes_per_second, seconds_of
from maeast_upstream.data.inputs import Segment, list_segments


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"), [(".wav", 48000, 2), (".wav", 16000, 1), (".flac", 44100, 1), (".ogg", 44100, 2)]
)
def test_the_headers_of_files_say_how_long_they_are(tmp_path, suffix, rate, channels):
    noise = 0.1 * np.random.default_rng(0).standard_normal((3 * rate, channels))
    for name in "abc":
        soundfile.write(tmp_path / f"{name}{suffix}", noise, rate)
    assert seconds_of(list_segments([tmp_path])) == pytest.approx(9.0, rel=0.02)


def test_the_length_of_many_real_clips_is_about_right():
    paths = sorted((Path(__file__).parents[2] / "data" / "audio").glob("*.opus"))
    actual = sum(soundfile.info(path).duration for path in paths)
    assert seconds_of(list_segments(paths)) == pytest.approx(actual, rel=0.3)


def test_only_a_few_files_are_opened(tmp_path, monkeypatch):
    for number in range(100):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(1600), 16000)
    opened = []
    monkeypatch.setattr("maeast_upstream.data.audio_length.bytes_per_second", lambda segment: opened.append(segment))
    seconds_of(list_segments([tmp_path]))
    assert len(opened) == 7


def test_segments_with_an_end_packed_clips_and_broken_ones_need_no_file():
    parts = [
        Segment("a.wav", start_ms=500, end_ms=2000),
        Segment("a.wav", end_ms=1000),
        Segment("a.wav", 0, 9000, 5000),
    ]
    assert seconds_of(parts) == pytest.approx(2.5)
    assert seconds_of([Segment("clip", size=64000, packed=True)]) == pytest.approx(2.0)
    assert seconds_of([Segment("a.tar/b.wav", size=10**9, error="cut short")]) == 0


def test_compressed_files_have_usual_rates_and_unknown_ones_a_usual_length():
    members = [Segment(f"a.tar/{suffix}", size=80_000, file="a.tar") for suffix in ("a.opus", "a.mp3", "a.xyz")]
    assert seconds_of(members) == pytest.approx(10 + 5 + 5)
    assert seconds_of([Segment("https://host/a.mp3"), Segment("missing.wav")]) == 2 * UNKNOWN_SECONDS


def wav(rate):
    return (
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0" + rate.to_bytes(4, "little") + b"\2\0\x10\0data" + b"\0" * 24
    )


def ogg(samples, kind=b"OpusHead"):
    return b"OggS" + b"\0" * 24 + kind + b"\0" * 32 + b"OggS\0\4" + samples.to_bytes(8, "little", signed=True)


def flac(rate, samples):
    return b"fLaC" + b"\0" * 14 + (rate << 44 | 15 << 36 | samples).to_bytes(8, "big") + b"\0" * 38


NONSENSE = (
    *(b"", b"RIFF", b"fLaC", b"OggS", b"\0" * 64, wav(0), wav(2**32 - 1), wav(1)),
    *(flac(0, 5), flac(16000, 0), flac(1, 1 << 35)),
    *(ogg(-1), ogg(0), ogg(1 << 62), ogg(9, b"\x01vorbis\0"), ogg(48000, b"Speex   ")),
)


@pytest.mark.parametrize("head", NONSENSE, ids=range(len(NONSENSE)))
def test_a_header_that_says_nothing_or_nonsense_is_not_believed(tmp_path, head):
    path = tmp_path / "a.wav"
    path.write_bytes(head)
    assert bytes_per_second(Segment(str(path))) is None


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    for name in (tmp_path / "a.wav", tmp_path, tmp_path / "missing.wav", "nul\0.wav", "https://host/a.wav"):
        assert bytes_per_second(Segment(str(name))) is None


def test_members_of_a_tar_are_read_where_they_begin(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"\0" * 512 + wav(32_000))
    member = Segment("a.tar/b.wav", offset=512, size=3_200_000, file=str(path))
    length = AudioLength()
    length.add(member)
    assert length.seconds == pytest.approx(100.0)

"""Broken files of every format through the processes that decode: samples or an AudioError, never more."""

import time
import zlib

import numpy as np
import pytest
import soundfile
from sounds import FORMATS, sweep, write

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.data.inputs import Segment
from maeast_upstream.decoding.pool import DecodePool

HEADER = 400
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def test_the_checksum_is_ogg_s_own(tmp_path):
    whole = write(tmp_path / "x.ogg", sweep(16000, 0.4), 16000).read_bytes()
    assert mend_ogg(bytearray(whole)) == whole


def mutate(whole, chance):
    """One to three of: other bytes in the header or anywhere, a piece zeroed, cut out, doubled or new, the end cut."""
    raw = bytearray(whole)
    for _ in range(chance.integers(1, 4)):
        first, length = int(chance.integers(0, len(raw))), int(chance.integers(1, 200))
        kind = chance.integers(7)
        if kind <= 1:
            for place in chance.integers(0, min(len(raw), HEADER) if kind else len(raw), chance.integers(1, 12)):
                raw[place] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.integers(256)])
        elif kind == 2:
            raw[first : first + length] = bytes(len(raw[first : first + length]))
        elif kind == 3:
            del raw[first : first + length]
        elif kind == 4:
            raw[first:first] = raw[first : first + length]
        elif kind == 5:
            raw[first:first] = chance.bytes(length)
        else:
            del raw[first:]
        raw = raw or bytearray(1)
    return mend_ogg(raw) if chance.random() < 0.7 else raw


def mend_ogg(raw):
    """Right checksums on Ogg pages, which are otherwise dropped before their codec sees the damage."""
    place = raw.find(b"OggS")
    while 0 <= place <= len(raw) - 27:
        end = min(
            len(raw),
            place + 27 + raw[place + 26] + sum(raw[place + 27 : place + 27 + raw[place + 26]]),
        )
        raw[place + 22 : place + 26] = bytes(4)
        raw[place + 22 : place + 26] = ogg_crc(raw[place:end]).to_bytes(4, "little")
        place = raw.find(b"OggS", end)
    return raw


def ogg_crc(page):
    """CRC-32, polynomial 0x04c11db7, unreflected, from zero: zlib's on mirrored bits."""
    mirrored = page.translate(MIRRORED)
    plain = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{plain:032b}"[::-1], 2)


def times_of_segment(chance):
    return (None, None) if chance.random() < 0.7 else (first := float(chance.integers(300)), first + 50)


def fuzz(folder, suffix, cases, seed):
    """Everything is answered, in order, soon."""
    chance = np.random.default_rng(seed)
    whole = write(folder / f"whole.{suffix}", sweep(16000, 0.4), 16000).read_bytes()
    paths = [folder / f"{number}.{suffix}" for number in range(cases)]
    for path in paths:
        path.write_bytes(mutate(whole, chance))
    died, read, slowest, before = [], 0, 0.0, time.monotonic()
    with DecodePool(1, limit_seconds=10) as pool:
        segments = (Segment(str(path), 0, *times_of_segment(chance)) for path in paths)
        for path, (segment, result) in zip(paths, pool.decode(segments), strict=True):
            slowest, before = max(slowest, time.monotonic() - before), time.monotonic()
            assert segment.path == str(path)
            if isinstance(result, AudioError):
                assert path.name in str(result)
                assert "\n" not in str(result)
                assert "no answer within" not in str(result)
                died += [(path, str(result))] if "process died" in str(result) else []
            else:
                assert np.isfinite(result).all()
                read += 1
    assert slowest < 10
    return died, read


@pytest.mark.parametrize("size", [14, 19, 26, 27])
def test_a_page_of_ogg_that_ends_in_its_header_is_refused_at_once(tmp_path, size):
    whole = write(tmp_path / "whole.ogg", sweep(16000, 0.4), 16000).read_bytes()
    (tmp_path / "cut.ogg").write_bytes(whole[:size])
    with DecodePool(1, limit_seconds=5) as pool:
        ((_, result),) = pool.decode([Segment(str(tmp_path / "cut.ogg"))])
    assert "not audio" in str(result)


@pytest.mark.parametrize("suffix", FORMATS)
def test_broken_files_are_samples_or_an_audio_error(tmp_path, suffix):
    died, _ = fuzz(tmp_path, suffix, 100, seed=0)
    assert not died


@pytest.mark.stress
@pytest.mark.parametrize("suffix", FORMATS)
def test_20_000_broken_files_are_samples_or_an_audio_error(tmp_path, suffix):
    died, read = fuzz(tmp_path, suffix, 2000, seed=1)
    assert not died
    assert read  # not everything was broken beyond reading


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "MS_ADPCM"),
        ("WAV", "IMA_ADPCM"),
        ("WAV", "DOUBLE"),
        ("W64", "PCM_24"),
        ("RF64", "PCM_16"),
        ("CAF", "ALAC_16"),
    ],
)
def test_rarer_codecs_broken_are_samples_or_an_audio_error(tmp_path, format, subtype):
    chance = np.random.default_rng(0)
    path = tmp_path / "x.wav"
    soundfile.write(path, sweep(16000, 0.4), 16000, format=format, subtype=subtype)
    whole, paths = (
        path.read_bytes(),
        [tmp_path / f"{number}.wav" for number in range(30)],
    )
    for path in paths:
        path.write_bytes(mutate(whole, chance))
    with DecodePool(1, limit_seconds=10) as pool:
        for _, result in pool.decode(Segment(str(path)) for path in paths):
            assert "died" not in str(result)
            assert not isinstance(result, AudioError) or ".wav: " in str(result)

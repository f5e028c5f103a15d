import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from sounds import write, write_pyav

from maeast_upstream.audio import opening, opus
from maeast_upstream.audio.backends import mono
from maeast_upstream.audio.opening import open_audio
from maeast_upstream.audio.reading import decode_audio

AUDIO = Path(__file__).parents[2] / "data" / "audio"


@pytest.fixture(scope="module")
def clip():
    """Four seconds at 48 kHz."""
    samples = soundfile.read(AUDIO / "long_drums.opus", dtype="float32")[0][:64000]
    return soxr.resample(samples, 16000, 48000)


def clean_samples(data, path):
    path.write_bytes(data)
    with path.open("rb") as file:
        return opus.clean_samples(file)


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("mono", None),
        ("mono", {"application": "voip", "b": "16k"}),
        ("mono", {"application": "voip", "b": "24k", "frame_duration": "60"}),
        ("stereo", {"b": "64k"}),
        ("stereo", {"application": "lowdelay", "frame_duration": "2.5"}),
    ],
)
def test_a_faultless_file_has_the_samples_of_libsndfile(tmp_path, clip, layout, options):
    path = tmp_path / "x.opus"
    if options is None:
        write(path, clip, 48000)
    else:
        samples = np.stack([clip, np.roll(clip, 3000)]) if layout == "stereo" else clip
        write_pyav(path, samples, 48000, "libopus", layout, options)
    with open_audio(path, "x") as reader:
        found = np.concatenate(list(reader.blocks(0)))
        assert isinstance(reader, opus.CleanReader)
        assert (reader.position, reader.notes) == (len(found), [])
        assert reader.seconds == len(found) / 48000
    # whole, because by parts it loses the samples to skip of files that FFmpeg wrote
    expected = mono(soundfile.read(path, dtype="float32", always_2d=True)[0])
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1e-6


def test_a_segment_is_that_part_of_the_file(tmp_path, clip):
    path = write(tmp_path / "x.opus", clip, 48000)
    whole, part = decode_audio(path).samples, decode_audio(path, 1500, 3000).samples
    assert np.abs(part - whole[24000:48000]).max() < 1e-5


def test_a_file_with_any_fault_or_another_rate_is_left_to_libsndfile(tmp_path, clip):
    path = tmp_path / "x.opus"
    good = write(path, clip, 48000).read_bytes()
    assert clean_samples(good, path) == len(clip)
    for position in range(0, len(good), len(good) // 60):
        changed = bytearray(good)
        changed[position] ^= 4
        assert not clean_samples(changed, path), position
    last = good.rindex(b"OggS")
    for data in (b"", good[:-1], good[:last], good[:100], good + b"\0", good + good, good[:last] + good[last:] * 2):
        assert not clean_samples(data, path)
    for rate in (16000, 24000):
        assert not clean_samples(write(path, clip, rate).read_bytes(), path)


def test_a_packet_that_cannot_be_decoded_is_left_to_libsndfile(tmp_path, clip, monkeypatch):
    path = tmp_path / "x.opus"
    data = bytearray(write(path, clip, 48000).read_bytes())
    page = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"][4]
    body = page + 27 + data[page + 26]
    data[body : body + 4] = bytes([data[body] | 3, 0x41, 255, 255])  # one frame, and more padding than bytes
    end = body + sum(data[page + 27 : body])
    data[page + 22 : page + 26] = bytes(4)
    data[page + 22 : page + 26] = struct.pack("<I", opus._checksum(bytes(data[page:end])))
    assert clean_samples(data, path) == len(clip)
    with open_audio(path, "x") as reader:
        found, notes = np.concatenate(list(reader.blocks(0))), reader.notes
        assert 65536 <= reader._position < len(clip)  # where libsndfile begins
    monkeypatch.setattr(opening.opus, "clean_samples", lambda file: 0)
    with open_audio(path, "x") as reader:
        expected = np.concatenate(list(reader.blocks(0)))
        assert notes == reader.notes
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1e-5


def test_a_file_at_another_rate_is_read_without_loading_ffmpeg():
    program = "import sys; from maeast_upstream.audio.reading import read_audio; read_audio(sys.argv[1])"
    program += "; raise SystemExit('av' in sys.modules)"
    path = AUDIO / "seven-espeak_en-us+f3.opus"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0

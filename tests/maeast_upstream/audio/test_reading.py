import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sounds import tone, wav_header, write_pyav

from maeast_upstream.audio import reading
from maeast_upstream.audio.backends import mono
from maeast_upstream.audio.ffmpeg import open_pyav
from maeast_upstream.audio.reading import AudioError, read_audio

AUDIO = Path(__file__).parents[2] / "data" / "audio"


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("aiff", "PCM_16"),
        ("mp3", None),
    ],
)
@pytest.mark.parametrize("rate", [16000, 44100, 8000])
def test_what_libsndfile_reads_becomes_16_khz_mono(tmp_path, suffix, subtype, rate):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(rate), rate, subtype=subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 8000) <= (1200 if suffix == "mp3" else 2)
    spectrum = np.abs(np.fft.rfft(samples[:8000]))
    assert abs(np.argmax(spectrum) * 16000 / len(samples[:8000]) - 440) < 5


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("m4a", "aac"), ("mp4", "aac"), ("mkv", "aac"), ("webm", "libopus")],
)
def test_what_libsndfile_does_not_read_comes_through_pyav(tmp_path, suffix, codec):
    path = tmp_path / f"tone.{suffix}"
    write_pyav(path, tone(48000), 48000, codec)
    samples = read_audio(path)
    assert abs(len(samples) - 8000) < 1500
    assert abs(np.argmax(np.abs(np.fft.rfft(samples))) * 16000 / len(samples) - 440) < 5


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("x.m4a", "aac", "mono"),
        ("x.mkv", "aac", "5.1"),
        ("x.mov", "pcm_s16le", "stereo"),
        ("x.mka", "libopus", "stereo"),
        ("x.wav", "", "7.1"),
    ],
)
def test_joined_frames_are_the_samples_of_a_plain_decoder(tmp_path, name, codec, layout):
    path = tmp_path / name
    clip = soundfile.read(AUDIO / "long_drums.opus", dtype="float32")[0][:80000]
    rate, channels = 48000, av.AudioLayout(layout).nb_channels
    samples = np.stack([np.roll(clip, 1000 * channel) for channel in range(channels)])
    if codec:
        write_pyav(path, samples, rate, codec, layout)
    else:  # more planes than PyAV can take
        soundfile.write(path, samples.T, rate)
    with open_pyav(path, name) as reader:
        found = list(reader.blocks(0))
    assert len(found) > 1
    assert np.array_equal(np.concatenate(found), plainly_decoded(path))
    assert not reader.notes


def plainly_decoded(path):
    convert = av.AudioResampler("flt")
    parts = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for part in convert.resample(frame):
                parts.append(mono(part.to_ndarray().reshape(-1, part.layout.nb_channels)))
    return np.concatenate(parts)


def test_real_opus_clips_have_their_exact_length():
    for path in sorted(AUDIO.glob("*.opus"))[:10]:
        expected, rate = soundfile.read(path, dtype="float32")
        assert rate == 16000
        assert np.array_equal(read_audio(path), expected)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path, channels):
    samples = np.stack([np.full(1000, 0.1 * (i + 1), np.float32) for i in range(channels)], axis=1)
    soundfile.write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    assert np.allclose(read_audio(tmp_path / "x.wav"), samples.mean(1))


def test_a_stream_is_read_like_its_file():
    path = sorted(AUDIO.glob("*.opus"))[0]
    assert np.array_equal(read_audio(io.BytesIO(path.read_bytes())), read_audio(path))


def make_bad(path, kind):
    good = tone(16000)
    if kind == "empty":
        path.touch()
    elif kind == "not audio":
        path.write_bytes(b"this is not audio at all " * 40)
    elif kind == "zero samples":
        path.write_bytes(wav_header())
    elif kind == "zero channels":
        path.write_bytes(wav_header(channels=0, data_bytes=8) + bytes(8))
    elif kind in ("1 Hz", "10 MHz"):
        rate = 1 if kind == "1 Hz" else 10_000_000
        path.write_bytes(wav_header(rate=rate, data_bytes=2000) + bytes(2000))
    elif kind in ("nan", "inf", "1e25", "-1e25"):
        good[100] = float(kind)
        soundfile.write(path, good, 16000, subtype="FLOAT")
    elif kind == "header only":
        path.write_bytes(wav_header(data_bytes=2**31)[:30])
    elif kind == "folder":
        path.mkdir()


BAD = {
    "empty": "empty file",
    "not audio": "not audio that can be decoded",
    "zero samples": "no samples",
    "zero channels": "x.wav",
    "1 Hz": "sample rate 1 Hz",
    "10 MHz": "sample rate 10000000 Hz",
    "nan": "NaN or infinite",
    "inf": "NaN or infinite",
    "1e25": "samples up to 1e+25; expected about -1 to 1",
    "-1e25": "samples up to 1e+25; expected about -1 to 1",
    "header only": "x.wav",
    "folder": "a folder",
    "missing": "no such file",
}


@pytest.mark.parametrize(("kind", "reason"), BAD.items())
def test_an_unusable_file_is_one_line_with_its_name_and_the_reason(tmp_path, kind, reason):
    path = tmp_path / "x.wav"
    make_bad(path, kind)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert reason in str(caught.value)
    assert "x.wav" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_broken_bytes_are_audio_or_an_audio_error(tmp_path, data):
    source = data.draw(st.sampled_from(sorted(AUDIO.glob("*.opus"))[:4]))
    raw = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.opus"
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        assert np.isfinite(read_audio(path)).all()
    except AudioError as error:
        assert "x.opus" in str(error)


def test_a_length_that_the_writer_could_not_know_is_no_cut(tmp_path):
    samples = (tone(16000) * 32767).astype("<i2").tobytes()
    (tmp_path / "piped.wav").write_bytes(wav_header(data_bytes=0x7FFFFFFF - 36) + samples)
    assert len(read_audio(tmp_path / "piped.wav")) == 8000


def test_a_name_with_a_colon_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pyav(tmp_path / "x.m4a", tone(48000), 48000, "aac")
    os.rename("x.m4a", "take:1.m4a")  # noqa: PTH104
    assert len(read_audio("take:1.m4a")) > 7000


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'x.m4a'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nx.m4a\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_list_of_other_files_is_not_followed(tmp_path, text):
    write_pyav(tmp_path / "x.m4a", tone(48000), 48000, "aac")
    (tmp_path / "list.m4a").write_text(text)
    with pytest.raises(AudioError, match=r"list\.m4a: not audio"):
        read_audio(tmp_path / "list.m4a")


def test_a_codec_without_a_decoder_is_an_audio_error(tmp_path):
    header = bytearray(wav_header(data_bytes=2000) + bytes(2000))
    header[20:22] = struct.pack("<H", 0x1234)  # no such codec
    (tmp_path / "x.wav").write_bytes(header)
    with pytest.raises(AudioError, match=r"x\.wav: not audio"):
        read_audio(tmp_path / "x.wav")


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(AudioError, match="a pipe or device"):
        read_audio(tmp_path / "x.wav")


def test_no_permission_is_an_audio_error(tmp_path, monkeypatch):
    (tmp_path / "x.wav").write_bytes(wav_header())

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"x\.wav: cannot be read \(Permission denied\)"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff", "m4a", "mkv"])
def test_broken_headers_are_audio_or_an_audio_error(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix in ("m4a", "mkv"):
        write_pyav(path, tone(16000), 16000, "aac")
    else:
        soundfile.write(path, tone(16000), 16000)
    whole, chance = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        raw = bytearray(whole)
        for place in chance.integers(0, min(len(raw), 400), 8):
            raw[place] = chance.integers(0, 256)
        path.write_bytes(raw)
        try:
            assert np.isfinite(read_audio(path)).all()
        except AudioError as error:
            assert path.name in str(error)


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 12, 24])
def test_many_channels_through_pyav_are_averaged(tmp_path, channels):
    import av

    names = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 12: "7.1.4", 24: "22.2"}
    level = np.linspace(0.01, 0.3, channels, dtype=np.float32)
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16000, layout=names[channels])
        samples = np.repeat(level[None], 1600, axis=0).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=names[channels])
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.allclose(read_audio(tmp_path / "x.mkv"), level.mean(), atol=1e-6)


def test_a_stream_that_goes_on_and_on_past_its_promised_end_is_broken(monkeypatch, tmp_path):
    # as libsndfile does with some broken Opus
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, rows, **options: np.zeros((rows, 1), np.float32),
    )
    soundfile.write(tmp_path / "x.opus", tone(16000), 16000, format="OGG", subtype="OPUS")
    with pytest.raises(AudioError, match=r"x\.opus: broken: 8000 samples declared, \d+ or more found"):
        read_audio(tmp_path / "x.opus")


def test_a_file_beyond_the_limit_of_hours_is_refused_while_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_HOURS", 2 / 3600)
    path = tmp_path / "bomb.flac"
    soundfile.write(path, np.zeros(5 * 16_000), 16_000)
    with pytest.raises(AudioError, match=r"bomb\.flac: more than 0\.000555556 hours of audio"):
        read_audio(path)
    assert len(read_audio(path, 1000, 3000)) == 32_000


def test_an_address_is_a_path_or_is_named_without_its_secrets(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(160, 0.5), 16_000)
    assert np.array_equal(read_audio(f"file://{path}"), read_audio(path))
    with pytest.raises(AudioError, match=r"^https://me:\*\*\*@host/a\.wav: an address; .*embed_files reads it$"):
        read_audio("https://me:hunter2@host/a.wav")
    with pytest.raises(AudioError, match="^an empty path$"):
        read_audio("")


def test_an_end_beyond_all_times_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(160, 0.5), 16_000)
    with pytest.raises(AudioError, match="expected 0 <= start < end <= 1e"):
        read_audio(path, 0, 1e308)

"""Files whose header and content disagree, or of which a part is broken: what is there is read, the rest is named."""

import io
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from sounds import sweep, tone, wav_header, write, write_pyav

from maeast_upstream.audio.clock import Clock
from maeast_upstream.audio.frames import Frame
from maeast_upstream.audio.reading import AudioError, AudioWarning, decode_audio, duration_ms, read_audio
from maeast_upstream.audio.segments import SequentialReader

RATE = 48000


def noise(seconds, rate=RATE, channels=1, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (round(rate * seconds), channels)).astype("f4")


def encoded(tmp_path, suffix, seconds=2.0, rate=RATE, channels=1, seed=0, **options):
    path = tmp_path / f"encoded.{suffix}"
    with soundfile.SoundFile(path, "w", rate, channels, **options) as file:
        for first in range(0, round(seconds * rate), 16000):
            file.write(noise(seconds, rate, channels, seed)[first : first + 16000])
    return path.read_bytes()


def decoded(tmp_path, content, suffix):
    """Decode a file and the same bytes as a stream, which give the same."""
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    result = decode_audio(path)
    stream = io.BytesIO(content)
    stream.name = path.name
    assert np.array_equal(decode_audio(stream).samples, result.samples)
    return result


def seconds(result):
    return len(result.samples) / 16000


def patched(content, at, new):
    return content[:at] + new + content[at + len(new) :]


OGG = {"vorbis": {"format": "OGG", "subtype": "VORBIS"}, "opus": {"format": "OGG", "subtype": "OPUS"}}


@pytest.mark.parametrize("codec", OGG)
@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (24000, 2)])
def test_all_links_of_a_chained_ogg_are_read(tmp_path, codec, rate, channels):
    links = [encoded(tmp_path, "ogg", **OGG[codec]), encoded(tmp_path, "ogg", 1, rate, channels, 1, **OGG[codec])]
    alone = [decoded(tmp_path, link, "ogg").samples for link in links]
    result = decoded(tmp_path, b"".join(links), "ogg")
    assert seconds(result) == pytest.approx(3, abs=0.01)
    assert np.allclose(result.samples[:31000], alone[0][:31000], atol=1e-3)
    assert np.abs(result.samples[32100:47900] - alone[1][100:15900]).max() < (1e-3 if rate == RATE else 0.1)
    assert result.notes == ("another stream begins at 2.00 s, as in joined files",)
    assert duration_ms(tmp_path / "x.ogg") == pytest.approx(3000, abs=10)


def test_a_flac_in_ogg_chain_is_read(tmp_path):
    links = []
    for _ in range(2):
        stamped(tmp_path / "x.oga", "flac", [0])
        links.append((tmp_path / "x.oga").read_bytes())
    assert seconds(decoded(tmp_path, b"".join(links), "oga")) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("codec", OGG)
def test_a_broken_link_of_a_chain_is_named_and_the_others_are_read(tmp_path, codec):
    first, second, third = (encoded(tmp_path, "ogg", seed=seed, **OGG[codec]) for seed in range(3))
    broken = second[:40] + bytes(len(second) - 40)
    result = decoded(tmp_path, first + broken + third, "ogg")
    assert seconds(result) == pytest.approx(4, abs=0.01)
    assert any(note.startswith("what follows at 2.00 s could not be read (") for note in result.notes)


@pytest.mark.parametrize("codec", OGG)
def test_a_broken_first_link_of_a_chain_is_named_and_the_next_is_read(tmp_path, codec):
    first, second = (encoded(tmp_path, "ogg", seed=seed, **OGG[codec]) for seed in range(2))
    result = decoded(tmp_path, first[:40] + bytes(len(first) - 40) + second, "ogg")
    assert seconds(result) == pytest.approx(2, abs=0.01)
    assert result.notes[0].startswith("what comes first could not be read (")


def test_a_damaged_vorbis_page_is_silent_and_what_follows_keeps_its_time(tmp_path):
    whole = encoded(tmp_path, "ogg", 6, **OGG["vorbis"])
    expected = decoded(tmp_path, whole, "ogg").samples
    result = decoded(tmp_path, patched(whole, len(whole) // 2, bytes(100)), "ogg")
    assert len(result.samples) == len(expected)
    assert np.corrcoef(result.samples[-16000:], expected[-16000:])[0, 1] > 0.99
    assert any("s are missing; silent here" in note for note in result.notes)


def test_an_ogg_without_its_end_is_read_with_a_note(tmp_path):
    whole = encoded(tmp_path, "ogg", 5, **OGG["vorbis"])
    result = decoded(tmp_path, whole[: len(whole) // 2], "ogg")
    assert 1.5 < seconds(result) < 4
    assert result.notes == ("its last page is not marked as the end: it may be cut short",)


def mp3_of_variable_bit_rate():
    """10 s without an index, whose first frames are the largest."""
    samples = noise(10)[:, 0]
    samples[RATE // 2 :] *= 0.001
    memory = io.BytesIO()
    with av.open(memory, "w", "mp3", options={"write_xing": "0", "id3v2_version": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.codec_context.flags |= 2  # by quality
        stream.codec_context.global_quality = 2 * 118
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return memory.getvalue()


def test_a_variable_mp3_without_an_index_is_read_to_its_end(tmp_path):
    result = decoded(tmp_path, mp3_of_variable_bit_rate(), "mp3")
    assert seconds(result) == pytest.approx(10, abs=0.1)
    assert result.notes == ()
    assert duration_ms(tmp_path / "x.mp3") == pytest.approx(10_000, abs=100)


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (44100, 2), (16000, 1)])
@pytest.mark.parametrize("tag", [b"", b"ID3\4\0\0\0\0\x10\0" + bytes(2048), b"TAG" + bytes(125)])
def test_joined_mp3_files_are_all_read(tmp_path, rate, channels, tag):
    first, second = encoded(tmp_path, "mp3"), encoded(tmp_path, "mp3", 1.0, rate, channels)
    alone = [decoded(tmp_path, part, "mp3").samples for part in (first, second)]
    result = decoded(tmp_path, first + tag + second, "mp3")
    assert len(result.samples) == pytest.approx(sum(map(len, alone)), abs=2)
    assert np.allclose(result.samples[:31000], alone[0][:31000], atol=1e-3)
    assert np.abs(result.samples[-15000:] - alone[1][-15000:]).max() < (1e-3 if rate == RATE else 0.1)
    assert result.notes == ("another stream begins at 2.00 s, as in joined files",)
    assert duration_ms(tmp_path / "x.mp3") == pytest.approx(3000, abs=150)


@pytest.mark.parametrize("garbage", [bytes(300), bytes(4000), b"noise" * 1000])
def test_broken_frames_in_an_mp3_are_silent_and_the_rest_keeps_its_time(tmp_path, garbage):
    whole = encoded(tmp_path, "mp3", 4)
    expected = decoded(tmp_path, whole, "mp3").samples
    result = decoded(tmp_path, patched(whole, 8000, garbage), "mp3")
    assert abs(len(result.samples) - len(expected)) <= 600
    assert np.corrcoef(result.samples[48000:60000], expected[48000:60000])[0, 1] > 0.99
    assert any("are no frames of MP3" in note and "silent here" in note for note in result.notes)


def test_what_was_put_between_the_frames_of_an_mp3_takes_no_time(tmp_path):
    whole = encoded(tmp_path, "mp3", 4)
    result = decoded(tmp_path, whole[:8000] + b"HTTP/1.1 200 OK\r\n" * 300 + whole[8000:], "mp3")
    assert seconds(result) == pytest.approx(4, abs=0.04)
    assert any("are no frames of MP3" in note or "no frames" in note for note in result.notes)


def test_garbage_before_an_mp3_is_left_out(tmp_path):
    result = decoded(tmp_path, b"\0garbage" * 500 + encoded(tmp_path, "mp3"), "mp3")
    assert seconds(result) == pytest.approx(2, abs=0.02)
    assert "4000 bytes that are no frames of MP3 come first" in result.notes[0]


def test_an_mp3_cut_short_is_read_with_a_note(tmp_path):
    whole = encoded(tmp_path, "mp3", 4)
    result = decoded(tmp_path, whole[: len(whole) // 2], "mp3")
    assert seconds(result) == pytest.approx(2, abs=0.2)
    assert any("frames declared" in note for note in result.notes)
    assert any("are no whole frame" in note for note in decoded(tmp_path, whole[:-100], "mp3").notes)


def flac_total(content, total):
    fields = int.from_bytes(content[21:26], "big") >> 36 << 36 | total
    return patched(content, 21, fields.to_bytes(5, "big"))


@pytest.mark.parametrize("total", [0, 40000, 400000])
def test_a_flac_with_a_wrong_length_is_read_to_its_end_exactly(tmp_path, total):
    whole = encoded(tmp_path, "flac", rate=16000)
    expected = decoded(tmp_path, whole, "flac").samples
    result = decoded(tmp_path, flac_total(whole, total), "flac")
    assert np.array_equal(result.samples, expected)
    assert bool(result.notes) == (total > 0)


@pytest.mark.parametrize("hole", [300, 30_000])
def test_a_damaged_flac_frame_is_silent_and_the_rest_is_exact(tmp_path, hole):
    whole = encoded(tmp_path, "flac", 6, 16000)
    expected = decoded(tmp_path, whole, "flac").samples
    for content in (patched(whole, 60_000, bytes(hole)), whole[:60_000] + whole[60_000 + hole :]):
        result = decoded(tmp_path, content, "flac")
        assert np.array_equal(result.samples[-16000:], expected[-16000:])
        assert np.array_equal(result.samples[:16000], expected[:16000])
        assert len(result.samples) == len(expected)
        assert any("silent here" in note for note in result.notes)


def test_a_flac_cut_short_and_joined_flac_files_are_read_with_a_note(tmp_path):
    whole = encoded(tmp_path, "flac", 4, 16000)
    result = decoded(tmp_path, whole[: len(whole) // 2], "flac")
    assert seconds(result) == pytest.approx(2, abs=0.3)
    assert any("cut short: 64000 samples declared" in note for note in result.notes)
    both = decoded(tmp_path, whole + whole, "flac")
    assert len(both.samples) == 128_000
    assert both.notes


def le(value, size=4):
    return value.to_bytes(size, "little")


def be(value, size=4):
    return value.to_bytes(size, "big")


def wrong_lengths():
    """Name, format, and a function of the whole file that gives it a wrong length."""
    for name, size in (("0", 0), ("half", 16000), ("double", 128_000)):
        yield f"wav {name}", "WAV", lambda raw, size=size: patched(raw, 40, le(size))
        yield f"aiff {name}", "AIFF", lambda raw, size=size: patched(raw, raw.find(b"SSND") + 4, be(size + 8))
        yield f"au {name}", "AU", lambda raw, size=size: patched(raw, 8, be(size))
        yield f"caf {name}", "CAF", lambda raw, size=size: patched(raw, raw.find(b"data") + 4, be(size + 4, 8))
        yield f"w64 {name}", "W64", lambda raw, size=size: patched(raw, raw.find(b"data\xf3") + 16, le(size + 24, 8))
        yield f"rf64 {name}", "RF64", lambda raw, size=size: patched(raw, raw.find(b"ds64") + 16, le(size, 8))
    yield "both 0", "WAV", lambda raw: patched(patched(raw, 40, bytes(4)), 4, bytes(4))
    yield "aiff all 0", "AIFF", lambda raw: patched(patched(raw, raw.find(b"SSND") + 4, bytes(4)), 4, bytes(4))
    yield "rf64 all 0", "RF64", lambda raw: patched(raw, raw.find(b"ds64") + 8, bytes(24))
    yield "w64 all 0", "W64", lambda raw: patched(patched(raw, 16, bytes(8)), raw.find(b"data\xf3") + 16, bytes(8))


@pytest.mark.parametrize(("form", "damage"), [pytest.param(f, d, id=n) for n, f, d in wrong_lengths()])
def test_uncompressed_files_with_a_wrong_length_are_read_to_their_end(tmp_path, form, damage):
    whole = encoded(tmp_path, "raw.wav", rate=16000, format=form, subtype="PCM_16")
    expected = decoded(tmp_path, whole, "wav").samples
    result = decoded(tmp_path, damage(whole), "wav")
    assert np.array_equal(result.samples, expected)
    (note,) = result.notes
    assert "bytes of samples declared, 64000 found" in note
    assert duration_ms(tmp_path / "x.wav") == 2000


@pytest.mark.parametrize("form", ["RF64", "CAF", "WAV", "AU"])
def test_a_length_that_says_unknown_is_no_fault(tmp_path, form):
    whole = encoded(tmp_path, "raw.wav", rate=16000, format=form, subtype="PCM_16")
    place = {"RF64": whole.find(b"ds64") + 16, "CAF": whole.find(b"data") + 4, "WAV": 40, "AU": 8}[form]
    result = decoded(tmp_path, patched(whole, place, b"\xff" * (8 if form in ("RF64", "CAF") else 4)), "wav")
    assert seconds(result) == 2
    assert result.notes == ()


def test_bw64_is_read(tmp_path):
    whole = encoded(tmp_path, "raw.wav", rate=16000, format="RF64", subtype="PCM_16")
    assert seconds(decoded(tmp_path, b"BW64" + whole[4:], "wav")) == 2


CHUNK = b"LIST" + le(26) + b"INFOISFT" + le(14) + b"Lavf62.0.0.0.0"


@pytest.mark.parametrize("tail", [CHUNK, bytes(5000), b"TAG" + bytes(5000), b"few bytes", b""])
def test_what_follows_an_honest_length_is_no_sound(tmp_path, tail):
    whole = encoded(tmp_path, "wav", rate=16000)
    result = decoded(tmp_path, whole + tail, "wav")
    assert len(result.samples) == 32000
    assert result.notes == ()


@pytest.mark.parametrize("samples", [100, 1000])
def test_a_short_wav_that_holds_twice_what_it_declares_is_read(tmp_path, samples):
    content = wav_header(data_bytes=samples) + bytes(range(1, 101)) * (samples // 50)
    assert len(decoded(tmp_path, content, "wav").samples) == samples


def test_chunks_after_samples_without_a_length_are_no_sound(tmp_path):
    whole = encoded(tmp_path, "wav", rate=16000)
    assert len(decoded(tmp_path, patched(whole, 40, bytes(4)) + CHUNK, "wav").samples) == 32000


def test_joined_wav_files_are_all_read(tmp_path):
    first, second = encoded(tmp_path, "wav", rate=16000), encoded(tmp_path, "wav", 1, 8000, 2)
    result = decoded(tmp_path, first + second, "wav")
    assert len(result.samples) == 48000
    assert result.notes == ("another stream begins at 2.00 s, as in joined files",)
    assert duration_ms(tmp_path / "x.wav") == 3000


@pytest.mark.parametrize("tail", [b"", CHUNK])
@pytest.mark.parametrize("bits", [16, 32])
def test_a_wav_above_4_gib_is_read_beyond_the_length_that_went_round(tmp_path, tail, bits):
    rate, channels = 192_000, 256
    size = (1 << 32) + 2 * rate * channels * bits // 8 // 1000 * 1000
    header = wav_header(rate, channels, size % 2**32, bits)
    with (tmp_path / "x.wav").open("wb") as file:
        file.write(header)
        file.truncate(44 + size)
        file.seek(44 + size)
        file.write(tail)
    length = 1000 * size / (rate * channels * bits // 8)
    assert duration_ms(tmp_path / "x.wav") == pytest.approx(length, abs=1)
    result = decode_audio(tmp_path / "x.wav", length - 500, length)
    assert len(result.samples) == pytest.approx(8000, abs=2)
    assert f"{size % 2**32} bytes of samples declared, {size} found" in result.notes[0]


def containers():
    for suffix, codec in (("mka", "libopus"), ("webm", "libopus"), ("mkv", "aac"), ("ts", "aac"), ("m4a", "aac")):
        yield pytest.param(suffix, codec, id=suffix)


def stamped(path, codec, starts, rate=RATE):
    """Write pieces of 1 s of noise, each with its own start in seconds."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        size = stream.codec_context.frame_size or 960
        for piece, start in enumerate(starts):
            samples = noise(1, rate, seed=piece)[:, 0]
            for first in range(0, rate - size, size):
                part = samples[None, first : first + size]
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = rate, round(start * rate) + first
                frame.time_base = Fraction(1, rate)
                resampled = av.AudioResampler(stream.format, "mono", rate).resample(frame)
                for packet in (packet for part in resampled for packet in stream.encode(part)):
                    out.mux(packet)
        out.mux(stream.encode(None))


@pytest.mark.parametrize(("suffix", "codec"), containers())
def test_sound_that_begins_late_is_read_whole(tmp_path, suffix, codec):
    stamped(tmp_path / f"x.{suffix}", codec, [5])
    result = decode_audio(tmp_path / f"x.{suffix}")
    assert seconds(result) == pytest.approx(1, abs=0.1)
    if suffix in ("mka", "webm", "mkv"):
        assert result.notes == ("its sound begins at 5.00 s; times count from there",)


@pytest.mark.parametrize(("suffix", "codec"), containers())
def test_a_hole_in_the_time_stamps_is_silent(tmp_path, suffix, codec):
    stamped(tmp_path / f"x.{suffix}", codec, [0, 3])
    result = decode_audio(tmp_path / f"x.{suffix}")
    assert seconds(result) == pytest.approx(4, abs=0.1)
    assert np.abs(result.samples[20000:44000]).max() < 1e-3
    assert np.abs(result.samples[52000:60000]).max() > 0.1
    assert any("silent here" in note for note in result.notes)


def test_hostile_time_stamps_make_no_endless_silence(tmp_path):
    stamped(tmp_path / "x.mka", "libopus", [0, 1_000_000])
    result = decode_audio(tmp_path / "x.mka")
    assert seconds(result) == pytest.approx(2, abs=0.1)
    assert any("left out, so that later times are early" in note for note in result.notes)


def test_a_single_wrong_time_stamp_makes_no_silence():
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 480), "f4"), format="fltp", layout="mono")
    stamps = [0.0, 0.01, 500.0, 0.03, 0.04, 30.05, 30.06]
    frames = [Frame(sound, stamp, 0.01, "", 0) for stamp in stamps]
    clock = Clock(exact=False)
    holes = [clock.hole(frame, following) for frame, following in zip(frames, [*frames[1:], None], strict=True)]
    assert holes == pytest.approx([0, 0, 0, 0, 0, 30, 0])


def test_time_stamps_that_go_back_are_read_on(tmp_path):
    for name, start in (("a.ts", 100), ("b.ts", 10)):
        stamped(tmp_path / name, "aac", [start])
    both = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "x.ts").write_bytes(both)
    assert seconds(decode_audio(tmp_path / "x.ts")) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "aac"), ("webm", "libopus")])
def test_a_container_cut_short_is_read_with_a_note(tmp_path, suffix, codec):
    path = tmp_path / f"x.{suffix}"
    write_pyav(path, noise(5)[:, 0], RATE, codec)
    assert seconds(decode_audio(path)) == pytest.approx(5, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = decode_audio(path)
    assert seconds(result) == pytest.approx(2.5, abs=0.3)
    assert any("cut short: 5.0 s declared" in note for note in result.notes)


def test_an_mp4_without_its_end_is_refused(tmp_path):
    write_pyav(tmp_path / "x.m4a", noise(5)[:, 0], RATE, "aac")
    (tmp_path / "x.m4a").write_bytes((tmp_path / "x.m4a").read_bytes()[:20000])
    with pytest.raises(AudioError, match=r"x\.m4a: not audio"):
        read_audio(tmp_path / "x.m4a")


@pytest.mark.parametrize(("suffix", "codec"), [("aac", "aac"), ("ac3", "ac3"), ("mp2", "mp2"), ("ts", "aac")])
def test_a_raw_stream_that_ends_in_a_frame_or_has_a_broken_one_is_read(tmp_path, suffix, codec):
    path = tmp_path / f"x.{suffix}"
    with av.open(str(path), "w", "adts" if suffix == "aac" else None) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        stream.codec_context.open()
        for first in range(0, 4 * RATE, stream.frame_size):
            part = noise(5)[first : first + stream.frame_size, 0]
            if stream.format.name == "s16":
                part = (part * 32767).astype("i2")
            frame = av.AudioFrame.from_ndarray(part[None], format=stream.format.name, layout="mono")
            frame.sample_rate = RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 7])
    assert seconds(decode_audio(path)) == pytest.approx(2, abs=0.2)
    path.write_bytes(patched(whole, len(whole) // 2, b"\xaa" * 60))
    result = decode_audio(path)
    assert seconds(result) == pytest.approx(4, abs=0.1)
    assert suffix in ("mp2", "ts") or any("could not be decoded" in note or "damaged" in note for note in result.notes)


def test_what_is_no_frame_of_an_adts_stream_is_counted(tmp_path):
    path = tmp_path / "x.aac"
    stamped(path, "aac", [0, 1, 2, 3])
    whole = path.read_bytes()
    assert decode_audio(path).notes == ()
    path.write_bytes(patched(whole, len(whole) // 2, bytes(3000)))
    assert any("bytes are no frames; left out" in note for note in decode_audio(path).notes)


def test_the_planned_length_is_that_of_the_sound(tmp_path):
    for name, codec, starts, length in (
        ("late.mka", "libopus", [5], 1),
        ("late.m4a", "aac", [5], 1),
        ("whole.ts", "aac", [0], 1),
        ("whole.aac", "aac", [0, 1], 2),
        ("whole.ac3", "ac3", [0, 1], 2),
    ):
        stamped(tmp_path / name, codec, starts)
        assert duration_ms(tmp_path / name) == pytest.approx(1000 * length, abs=150), name


@pytest.mark.parametrize(
    "suffix", ["mkv", "webm", "m4a", "mov", "ts", "aac", "flv", "avi", "mpg", "ogg", "opus", "mp3"]
)
def test_whole_files_have_no_notes(tmp_path, suffix):
    codecs = {"webm": "libopus", "opus": "libopus", "ogg": "flac", "mpg": "mp2"}
    codec = codecs.get(suffix, "libmp3lame" if suffix in ("mp3", "flv", "avi") else "aac")
    stamped(tmp_path / f"x.{suffix}", codec, [0, 1], 44100 if suffix == "flv" else RATE)
    assert decode_audio(tmp_path / f"x.{suffix}").notes == ()


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_tag_of_id3_before_a_file_hides_nothing(tmp_path, suffix):
    whole = encoded(tmp_path, suffix, rate=16000)
    result = decoded(tmp_path, b"ID3\4\0\0\0\0\x10\0" + bytes(2048) + whole, suffix)
    assert len(result.samples) == 32000


def test_damaged_files_give_the_same_segments_one_by_one_and_in_their_order(tmp_path):
    mp3, flac = encoded(tmp_path, "mp3", 4), encoded(tmp_path, "flac", 4, 16000)
    ogg = encoded(tmp_path, "ogg", 4, **OGG["vorbis"])
    contents = {
        "joined.mp3": mp3 + mp3,
        "broken.mp3": patched(mp3, 8000, bytes(2000)),
        "unknown.flac": flac_total(flac, 0),
        "short.flac": flac_total(flac, 20_000),
        "broken.flac": patched(flac, 40_000, bytes(200)),
        "chain.ogg": ogg + encoded(tmp_path, "ogg", 1, **OGG["opus"]),
        "broken.ogg": patched(ogg, len(ogg) // 2, bytes(100)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        whole, file = decode_audio(tmp_path / name).samples, SequentialReader(str(tmp_path / name))
        for start, end in ((0, 300), (200, 1500), (1000, 2500), (2400, 3900), (3000, 3500)):
            alone, next_one = decode_audio(tmp_path / name, start, end), file.read(start, end)
            assert np.array_equal(alone.samples, next_one.samples), name
            assert alone.notes == next_one.notes
            assert np.abs(alone.samples - whole[16 * start : 16 * end]).max() < 1e-5
        file.close()


@pytest.mark.parametrize(
    ("content", "look"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>" * 9, "an HTML page"),
        (b'\n<HTML lang="en">', "an HTML page"),
        (b'{"error": "not found"}', "JSON"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        " + b" " * 4000, "a file of macOS"),
        (b"Rate limit exceeded\n", "text"),
        (b"\n", "text"),
    ],
)
@pytest.mark.parametrize("suffix", ["mp3", "wav", "flac", "ogg", "au", "opus"])
def test_what_is_no_audio_is_named_by_its_look(tmp_path, content, look, suffix):
    (tmp_path / f"x.{suffix}").write_bytes(content)
    with pytest.raises(AudioError, match=rf"x\.{suffix}: not audio that can be decoded \(it looks like {look}"):
        read_audio(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("suffix", ["m4a", "aac", "ts", "mkv"])
def test_what_is_no_audio_of_a_container_is_named_by_its_look(tmp_path, suffix):
    (tmp_path / f"x.{suffix}").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 9)
    with pytest.raises(AudioError, match=rf"x\.{suffix}: not audio that can be decoded \(it looks like an HTML page\)"):
        read_audio(tmp_path / f"x.{suffix}")


def test_notes_are_warnings_of_read_audio(tmp_path):
    (tmp_path / "x.wav").write_bytes(wav_header(data_bytes=640) + bytes(320))
    with pytest.warns(AudioWarning, match=r"x\.wav: cut short: 640 bytes of samples declared, 320 found"):
        read_audio(tmp_path / "x.wav")


def test_a_note_comes_only_with_segments_that_it_concerns(tmp_path):
    whole = encoded(tmp_path, "mp3", 4)
    (tmp_path / "x.mp3").write_bytes(patched(whole, 8000, b"noise" * 100))
    assert decode_audio(tmp_path / "x.mp3", 0, 500).notes == ()
    assert decode_audio(tmp_path / "x.mp3", 0, 1500).notes != ()
    assert decode_audio(tmp_path / "x.mp3", 2000, 3000).notes == ()


def test_no_decoder_writes_to_the_terminal(tmp_path):
    write(tmp_path / "a.m4a", sweep(16000, 2), 16000)
    for suffix in ("mp3", "ogg", "flac"):
        (tmp_path / f"a.{suffix}").write_bytes(encoded(tmp_path, suffix))
    program = "import sys, warnings; warnings.simplefilter('ignore')\nfrom maeast_upstream.audio import read_audio\n"
    program += "for path in sys.argv[1:]:\n  try: read_audio(path)\n  except ValueError: pass\n"
    paths = []
    for suffix in ("mp3", "ogg", "flac", "m4a"):
        whole = (tmp_path / f"a.{suffix}").read_bytes()
        for number in range(8):
            chance = np.random.default_rng(number)
            raw = bytearray(whole)
            for place in chance.integers(500, len(raw), 40):
                raw[place] = chance.integers(0, 255)
            paths.append(tmp_path / f"{number}.{suffix}")
            paths[-1].write_bytes(raw)
    done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_c_libraries_write_again_after_threads_that_were_quiet():
    program = """if True:
    import ctypes, threading
    from maeast_upstream.audio.quiet import quiet_c
    def write(): ctypes.CDLL(None).perror(b"hidden")
    def quiet():
        for _ in range(50):
            with quiet_c(): write()
    threads = [threading.Thread(target=quiet) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    ctypes.CDLL(None).perror(b"shown")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.startswith("shown: ")
    assert "hidden" not in done.stderr


def test_tones_of_joined_streams_keep_their_pitch(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000, 1), 16000)
    soundfile.write(tmp_path / "b.wav", tone(44100, 1), 44100)
    both = (tmp_path / "a.wav").read_bytes() + (tmp_path / "b.wav").read_bytes()
    samples = decoded(tmp_path, both, "wav").samples[16000:]
    assert abs(np.argmax(np.abs(np.fft.rfft(samples))) * 16000 / len(samples) - 440) < 2


def test_an_au_header_that_lies_about_where_its_samples_begin_is_no_crash(tmp_path):
    (tmp_path / "x.au").write_bytes(b".snd" + struct.pack(">IIIII", 2**31, 0, 3, 16000, 1) + bytes(100))
    with pytest.raises(AudioError, match=r"x\.au"):
        read_audio(tmp_path / "x.au")

"""What stands beside or behind the sound that the first header describes: more sound is read, tags are none."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from maeast_upstream.audio.reading import AudioError, decode_audio, duration_ms

RATE = 16000


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(RATE * seconds)).astype("f4")


def encoded(seconds, seed=0, **options):
    file = io.BytesIO()
    soundfile.write(file, noise(seconds, seed), RATE, **options)
    return file.getvalue()


def by_ffmpeg(form, codec, seconds, seed=0, options=None, **parameters):
    file, samples = io.BytesIO(), noise(seconds, seed)
    with av.open(file, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono", **parameters)
        for first in range(0, len(samples), 800):
            frame = av.AudioFrame.from_ndarray(samples[None, first : first + 800], "flt", "mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decoded(tmp_path, name, content):
    """Decode a file and the same bytes as a stream, which give the same."""
    (tmp_path / name).write_bytes(content)
    result, stream = decode_audio(tmp_path / name), io.BytesIO(content)
    stream.name = name
    again = decode_audio(stream)
    assert np.array_equal(again.samples, result.samples)
    assert again.notes == result.notes
    return result


def chunk(name, content, order="<"):
    return name + struct.pack(order + "I", len(content)) + content


def riff(*chunks, form=b"RIFF", order="<"):
    layout = struct.pack(order + "HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    content = b"WAVE" + chunk(b"fmt ", layout, order) + b"".join(chunks)
    return chunk(form, content, order)


def pcm(samples, order="<"):
    return (samples * 32767).astype(order + "i2").tobytes()


INFO = chunk(b"LIST", b"INFOISFT\x06\0\0\0Lavf58")


@pytest.mark.parametrize("between", [b"", INFO], ids=["directly", "after another chunk"])
def test_all_chunks_of_samples_in_a_wav_are_read(tmp_path, between):
    first, second = noise(1, 1), noise(0.5, 2)
    result = decoded(tmp_path, "x.wav", riff(chunk(b"data", pcm(first)), between, chunk(b"data", pcm(second))))
    np.testing.assert_allclose(result.samples, np.concatenate([first, second]), atol=1e-4)
    assert "1.00 s" in result.notes[0]
    assert len(result.notes) == 1


def test_wav_files_joined_behind_other_chunks_are_all_read(tmp_path):
    first, second = noise(1, 1), noise(0.5, 2)
    files = [riff(chunk(b"data", pcm(samples)), INFO) for samples in (first, second, first)]
    result = decoded(tmp_path, "x.wav", b"".join(files))
    np.testing.assert_allclose(result.samples, np.concatenate([first, second, first]), atol=1e-4)
    assert len(result.notes) == 2


@pytest.mark.parametrize(("declared", "noted"), [(0, True), (1000, True), (32000, False), (99999, True)])
def test_a_big_endian_wav_with_a_wrong_length_is_read_to_its_end(tmp_path, declared, noted):
    samples = noise(1)
    whole = riff(chunk(b"data", pcm(samples, ">"), ">"), form=b"RIFX", order=">")
    at = whole.index(b"data") + 4
    result = decoded(tmp_path, "x.wav", whole[:at] + struct.pack(">I", declared) + whole[at + 4 :])
    np.testing.assert_allclose(result.samples, samples, atol=1e-4)
    assert bool(result.notes) == noted


def test_an_au_with_another_placeholder_for_its_length_is_read(tmp_path):
    whole = encoded(1, format="AU", subtype="PCM_16")
    result = decoded(tmp_path, "x.au", whole[:8] + b"\x7f\xff\xff\xff" + whole[12:])
    assert (len(result.samples), result.notes) == (RATE, ())


def test_a_w64_with_an_impossible_length_is_read(tmp_path):
    whole = encoded(1, format="W64", subtype="PCM_16")
    at = whole.index(b"data") + 16
    result = decoded(tmp_path, "x.w64", whole[:at] + struct.pack("<Q", 1 << 63) + whole[at + 8 :])
    assert (len(result.samples), result.notes) == (RATE, ())


OTHERS = {
    "a WAV without its length": riff(b"data\0\0\0\0" + pcm(noise(2))),
    "joined MP3": encoded(1, 1, format="MP3") + encoded(1, 2, format="MP3"),
    "chained Ogg": encoded(1, 1, format="OGG", subtype="VORBIS") + encoded(1, 2, format="OGG", subtype="VORBIS"),
}


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "aac", "wma"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_wrong_name_hides_no_sound(tmp_path, kind, suffix):
    result = decoded(tmp_path, f"x.{suffix}", OTHERS[kind])
    assert 1.95 < len(result.samples) / RATE < 2.25
    assert result.notes


@pytest.mark.parametrize("form", ["mp4", "mov", "ipod"])
def test_joined_mp4_files_are_all_read(tmp_path, form):
    files = [by_ffmpeg(form, "aac", 1, seed) for seed in (1, 2)]
    alone = [decoded(tmp_path, "x.m4a", file).samples for file in files]
    result = decoded(tmp_path, "x.m4a", b"".join(files))
    np.testing.assert_array_equal(result.samples, np.concatenate(alone))
    assert "another stream begins" in result.notes[0]


@pytest.mark.parametrize("codec", ["pcm_s16le", "libmp3lame"])
def test_an_avi_cut_short_has_a_note(tmp_path, codec):
    whole = by_ffmpeg("avi", codec, 2)
    assert decoded(tmp_path, "whole.avi", whole).notes == ()
    result = decoded(tmp_path, "cut.avi", whole[: len(whole) * 6 // 10])
    assert "cut short" in result.notes[0]
    assert len(result.samples) / RATE < 1.5


def test_an_id3_tag_before_ogg_repeats_nothing(tmp_path):
    whole = encoded(1, format="OGG", subtype="VORBIS")
    tag = b"ID3\3\0\0\0\0\x10\0" + bytes(2048)
    result, expected = decoded(tmp_path, "x.ogg", tag + whole), decoded(tmp_path, "y.ogg", whole)
    np.testing.assert_array_equal(result.samples, expected.samples)
    assert result.notes == ()


def ape_tag(size, header=True):
    items = struct.pack("<II", size, 0) + b"Comment\0" + b"x" * size
    ends = [b"APETAGEX" + struct.pack("<IIII", 2000, len(items) + 32, 1, flags << 29) + bytes(8) for flags in (5, 4)]
    return ends[0] * header + items + ends[1]


ID3V2 = b"ID3\4\0\x10\0\0\2\0" + bytes(256) + b"3DI\4\0\x10\0\0\2\0"
ID3V1 = b"TAG" + bytes(125)


@pytest.mark.parametrize("tag", [ape_tag(9000), ape_tag(500, header=False), ape_tag(99) + ID3V1, ID3V2, ID3V1])
@pytest.mark.parametrize("with_index", [True, False], ids=["with an index", "without"])
def test_tags_behind_an_mp3_are_no_sound_and_no_fault(tmp_path, tag, with_index):
    whole = by_ffmpeg("mp3", "libmp3lame", 3, options={"write_xing": str(int(with_index))}, bit_rate=16000)
    result = decoded(tmp_path, "x.mp3", whole + tag)
    expected = decoded(tmp_path, "y.mp3", whole)
    np.testing.assert_array_equal(result.samples, expected.samples)
    assert result.notes == expected.notes == ()
    assert abs(duration_ms(tmp_path / "x.mp3") - 3000) < 150


def test_a_tag_of_id3_with_a_footer_before_an_mp3_is_no_junk(tmp_path):
    assert decoded(tmp_path, "x.mp3", ID3V2 + encoded(1, format="MP3")).notes == ()


def test_an_index_that_cannot_be_true_plans_no_centuries(tmp_path):
    whole = encoded(1, format="MP3")
    at = max(whole.find(b"Xing"), whole.find(b"Info")) + 8
    for frames in (1, 0xFFFF_FFFF):
        (tmp_path / "x.mp3").write_bytes(whole[:at] + struct.pack(">I", frames) + whole[at + 4 :])
        assert 900 < duration_ms(tmp_path / "x.mp3") < 1300


def test_bytes_that_look_like_frames_by_chance_are_no_mp3(tmp_path):
    """An executable has a few of them."""
    three = encoded(1, format="MP3")[-3 * 72 :]
    chance = np.random.default_rng(0).integers(1, 255, 20000, dtype="u1").tobytes()
    (tmp_path / "x.mp3").write_bytes(b"\x7fELF" + chance + three + chance)
    with pytest.raises(AudioError, match="not audio"):
        decode_audio(tmp_path / "x.mp3")


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le"])
def test_a_voc_of_many_blocks_is_read_whole(tmp_path, codec):
    result = decoded(tmp_path, "x.voc", by_ffmpeg("voc", codec, 3))
    assert abs(len(result.samples) / RATE - 3) < 0.05
    if codec == "pcm_s16le":  # the rate of 8-bit sound is a rounded time constant
        np.testing.assert_allclose(result.samples, noise(3), atol=1e-4)


@pytest.mark.parametrize("suffix", ["aac", "wav", "mp3"])
def test_aac_in_latm_is_read(tmp_path, suffix):
    result = decoded(tmp_path, f"x.{suffix}", by_ffmpeg("latm", "aac", 2))
    assert abs(len(result.samples) / RATE - 2) < 0.2


def test_segments_of_a_damaged_flac_are_those_of_the_whole(tmp_path):
    """Libsndfile cannot go to some of its samples."""
    whole = encoded(4, format="FLAC")
    half = len(whole) // 2
    result = decoded(tmp_path, "x.flac", whole[:half] + bytes(3000) + whole[half + 3000 :])
    for first in range(0, 4000, 125):
        part = decode_audio(tmp_path / "x.flac", first, first + 125).samples
        np.testing.assert_array_equal(part, result.samples[16 * first : 16 * (first + 125)])


@pytest.mark.parametrize("rate", [1000, 2000, 4000])
def test_segments_at_low_rates_are_those_of_the_whole(tmp_path, rate):
    soundfile.write(tmp_path / "x.wav", noise(3)[: 3 * rate], rate)
    whole = decode_audio(tmp_path / "x.wav").samples
    for first in (300, 700, 1501):
        part = decode_audio(tmp_path / "x.wav", first, first + 600).samples
        np.testing.assert_allclose(part, whole[16 * first : 16 * (first + 600)], atol=1e-5)

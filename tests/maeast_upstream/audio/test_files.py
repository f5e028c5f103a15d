"""Which files of a folder are audio, by their names."""

import io
import tarfile

import av
import numpy as np
import pytest
import soundfile

from maeast_upstream.audio.files import AUDIO_SUFFIXES, find_audio, is_hidden, looks_like_audio
from maeast_upstream.audio.reading import read_audio
from maeast_upstream.data.inputs import list_segments

FORMATS = {
    **dict.fromkeys((".m4b", ".m4v", ".f4v"), "mp4"),
    **dict.fromkeys((".mts", ".m2ts", ".ts"), "mpegts"),
    **{".m4r": "ipod", ".mka": "matroska", ".weba": "webm", ".aac": "adts", ".mpga": "mp3", ".mpeg": "mpeg"},
    **{".oga": "ogg", ".bwf": "wav", ".wave": "wav", ".rf64": "wav", ".aifc": "aiff", ".aif": "aiff", ".snd": "au"},
    **dict.fromkeys((".wma", ".asf", ".wmv"), "asf"),
}
"""Names that FFmpeg has for containers, where it does not know the suffix."""
CODECS = {
    **dict.fromkeys((".webm", ".weba", ".opus"), "libopus"),
    **dict.fromkeys((".wav", ".wave", ".bwf", ".rf64", ".w64", ".caf"), "pcm_s16le"),
    **dict.fromkeys((".aiff", ".aif", ".aifc", ".au", ".snd"), "pcm_s16be"),
    **dict.fromkeys((".ogg", ".oga", ".flac"), "flac"),
    **dict.fromkeys((".wma", ".asf", ".wmv"), "wmav2"),
    **dict.fromkeys((".mp3", ".mpga", ".avi", ".flv"), "libmp3lame"),
    **dict.fromkeys((".mp2", ".mpg", ".mpeg", ".vob"), "mp2"),
    **{".ac3": "ac3", ".eac3": "eac3", ".wv": "wavpack", ".tta": "tta", ".g722": "g722", ".voc": "pcm_u8"},
    ".amr": "libopencore_amrnb",
}
"""Codecs where the container does not take AAC."""
NOT_WRITTEN = frozenset({".ape", ".gsm", ".spx", ".sph"})
"""Formats for which PyAV has a decoder only."""


@pytest.mark.parametrize("name", ["x.wav", "a/B.MKA", "./x.wav", "../x.ts", "a.b/x..wav", "a\\x.wav"])
def test_names_with_a_suffix_of_audio_look_like_audio(name):
    assert looks_like_audio(name)
    assert not is_hidden(name)


@pytest.mark.parametrize("name", ["._x.wav", "a/._x.wav", ".x.wav", ".git/x.wav", "./.a/x.wav", "a\\.b\\x.wav"])
def test_hidden_names_do_not_look_like_audio(name):
    assert is_hidden(name)
    assert not looks_like_audio(name)


def test_hidden_files_of_folders_and_tars_are_left_out(tmp_path):
    names = ("z.wav", "._z.wav", ".hidden.wav", ".trash/x.wav", "a/b.wav", "a/._b.wav")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert find_audio([tmp_path]) == [tmp_path / "a/b.wav", tmp_path / "z.wav"]
    listed = [segment.path.removeprefix(f"{tmp_path}/") for segment in list_segments(tmp_path)]
    assert listed == ["a/b.wav", "x.tar/z.wav", "x.tar/a/b.wav", "z.wav"]


def test_a_hidden_file_is_read_when_it_is_named(tmp_path):
    (tmp_path / ".x.wav").touch()
    assert find_audio([tmp_path / ".x.wav"]) == [tmp_path / ".x.wav"]


def test_folders_are_searched_and_files_taken_as_they_are(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/2.WAV", "a/b/1.flac", "a/notes.txt", "odd.bin"):
        (tmp_path / name).touch()
    found = find_audio([tmp_path / "odd.bin", tmp_path / "a", tmp_path / "a" / "2.WAV"])
    assert [path.name for path in found] == ["odd.bin", "2.WAV", "1.flac"]
    assert ".opus" in AUDIO_SUFFIXES


def test_a_folder_without_audio_and_a_missing_path_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a folder without audio; looked for .*\.wav"):
        find_audio([tmp_path])
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        find_audio([tmp_path / "nowhere"])


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES - NOT_WRITTEN))
def test_every_suffix_that_folders_are_searched_for_is_read(tmp_path, suffix):
    rate = {".amr": 8000, ".flv": 44100, ".g722": 16000}.get(suffix, 48000)
    path = tmp_path / f"x{suffix}"
    with av.open(str(path), "w", FORMATS.get(suffix)) as out:
        stream = out.add_stream(CODECS.get(suffix, "aac"), rate=rate, layout="mono")
        stream.codec_context.bit_rate = 12_200 if suffix == ".amr" else 96_000
        samples = np.random.default_rng(0).normal(0, 0.1, (1, rate)).astype("f4")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        stream.codec_context.open()
        convert = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.codec_context.frame_size or None)
        for part in [*convert.resample(frame), *convert.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    assert find_audio([tmp_path]) == [path]
    assert len(read_audio(path)) == pytest.approx(16000, abs=1500)


def test_nist_sphere_is_read(tmp_path):
    soundfile.write(tmp_path / "x.sph", np.zeros(16000), 16000, format="NIST", subtype="PCM_16")
    assert len(read_audio(tmp_path / "x.sph")) == 16000


@pytest.mark.parametrize("codec", ["ape", "gsm", "speex"])
def test_what_cannot_be_written_here_has_a_decoder(codec):
    assert av.Codec(codec, "r").type == "audio"

"""Which files of a folder are audio, by their names."""

import io
import tarfile

import pytest

from maeast_upstream.audio.files import AUDIO_SUFFIXES, find_audio, is_hidden, looks_like_audio
from maeast_upstream.data.inputs import list_segments


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

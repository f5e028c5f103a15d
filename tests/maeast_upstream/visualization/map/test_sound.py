import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.data.inputs import list_segments
from maeast_upstream.visualization.map import sound as map_sound

AUDIO = Path(__file__).parents[3] / "data" / "audio"
CLIPS = sorted(map(str, AUDIO.glob("*.opus")))[:3]
LONG = str(AUDIO / "long_drums.opus")


def table(paths, start_ms=0.0, end_ms=np.nan) -> Embeddings:
    rows = len(paths)
    return Embeddings(
        paths=list(paths),
        vectors=np.zeros((rows, 1)),
        start_ms=np.full(rows, start_ms),
        end_ms=np.full(rows, end_ms),
        segments=np.zeros(rows, np.int64),
    )


def test_small_maps_hold_their_sound():
    sound = map_sound.sound_of(table(CLIPS), None)
    assert (sound.mode, sound.unread, sound.note) == ("embed", {}, "")
    for row, path in enumerate(CLIPS):
        samples, rate = soundfile.read(io.BytesIO(sound.clips[row]))
        assert rate == 16_000
        assert len(samples) == min(len(read_audio(path)), 160_000)
        assert np.corrcoef(samples, read_audio(path)[: len(samples)])[0, 1] > 0.9


def test_the_same_clip_gives_the_same_bytes():
    samples = read_audio(CLIPS[0])
    assert map_sound.opus(samples) == map_sound.opus(samples)


def test_only_what_was_embedded_is_heard_and_ten_seconds_of_it():
    whole = read_audio(LONG)
    np.testing.assert_array_equal(map_sound.read_clip(LONG, 500.0, 1500.0), whole[8_000:24_000])
    assert len(map_sound.read_clip(LONG, 0.0, np.nan)) == min(len(whole), 160_000)
    with pytest.raises(AudioError, match="ends before 9000000 ms"):
        map_sound.read_clip(LONG, 9e6, 9.1e6)


def test_many_or_large_clips_are_linked_unless_asked_for(monkeypatch):
    monkeypatch.setattr(map_sound, "MAX_CLIPS", 2)
    assert "3 clips are more than 2" in (sound := map_sound.sound_of(table(CLIPS), None)).note
    assert (sound.mode, sound.clips) == ("link", {})
    assert map_sound.sound_of(table(CLIPS), "embed").clips.keys() == {0, 1, 2}
    monkeypatch.setattr(map_sound, "MAX_CLIPS", 3)
    monkeypatch.setattr(map_sound, "MAX_BYTES", 1000)
    assert "more than 0 MB" in map_sound.sound_of(table(CLIPS), None).note


@pytest.mark.parametrize("mode", ["link", "none"])
def test_nothing_is_read_for_links_or_silence(mode):
    assert map_sound.sound_of(table(["nowhere.wav"]), mode) == map_sound.Sound(mode)


def test_a_clip_that_cannot_be_read_is_told_and_the_others_are_heard():
    sound = map_sound.sound_of(table([CLIPS[0], "shard.tar/member.opus", CLIPS[1]]), None)
    assert sound.clips.keys() == {0, 2}
    assert sound.unread == {1: "shard.tar/member.opus: no such file"}
    assert sound.note == "1 of 3 clips without sound: shard.tar/member.opus: no such file"


def test_members_of_tars_are_heard_as_files_are(tmp_path):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for path in CLIPS:
            tar.add(path, Path(path).name)
    members = [segment.path for segment in list_segments([shard])]
    sound = map_sound.sound_of(table([*members, f"{shard}/gone.opus"]), None)
    assert [sound.clips[row] for row in range(3)] == [
        map_sound.opus(map_sound.read_clip(p, 0.0, np.nan)) for p in CLIPS
    ]
    assert sound.unread.keys() == {3}

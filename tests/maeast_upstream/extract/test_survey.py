import io
import os
import sys
import types
from pathlib import Path

import pytest

from maeast_upstream.data.audio_length import UNCOMPRESSED_RATE, UNKNOWN_SECONDS
from maeast_upstream.data.inputs import Segment, list_segments
from maeast_upstream.extract import survey
from maeast_upstream.extract.survey import Survey


def make_clips(folder, count):
    for number in range(count):
        (folder / f"{number:04d}.wav").write_bytes(bytes(number))
    return str(folder)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_inputs_are_listed_once_and_read_again_as_often_as_needed(tmp_path, monkeypatch, block):
    monkeypatch.setattr(survey, "BLOCK_SEGMENTS", block)
    folder = make_clips(tmp_path, 21)
    expected = list(list_segments([folder]))
    found = Survey([folder])
    monkeypatch.setattr(survey, "list_segments", None)
    assert list(found) == list(found) == expected
    assert found.segments == 21
    assert found.seconds == pytest.approx(UNKNOWN_SECONDS + sum(range(21)) / UNCOMPRESSED_RATE)  # one file is empty


def test_the_digest_identifies_the_inputs(tmp_path):
    folder = make_clips(tmp_path, 3)
    before = Survey([folder]).digest
    assert Survey([folder]).digest == before
    make_clips(tmp_path, 4)
    assert Survey([folder]).digest != before


def test_a_list_on_stdin_is_read_once(monkeypatch):
    lines = io.BytesIO(b"a.wav\n" + os.fsencode("b\udce9.wav"))
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=lines))
    found = Survey(["-"])
    assert list(found) == list(found) == [Segment("a.wav"), Segment("b\udce9.wav")]


def test_no_audio_and_no_stdin_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO()))
    with pytest.raises(ValueError, match="no audio in -"):
        Survey(["-"])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="stdin is closed"):
        Survey(["-"])


def test_a_renewed_password_is_the_same_input(tmp_path):
    digests = []
    for password in ("one", "two"):
        (tmp_path / "m.csv").write_text(f"path\nhttp://u:{password}@h/a.wav\nhttp://u@h/b.wav?sig={password}\n")
        survey = Survey([str(tmp_path / "m.csv")])
        assert [segment.path for segment in survey] == ["http://u:***@h/a.wav", "http://***@h/b.wav?sig=***"]
        digests.append(survey.digest)
    assert digests[0] == digests[1]


def test_a_full_folder_of_temporary_files_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.wav").touch()
    full = lambda *_: Path("/dev/full").open("wb", buffering=0)  # noqa: E731, SIM115
    monkeypatch.setattr(survey.tempfile, "SpooledTemporaryFile", full)
    with pytest.raises(OSError, match="TMPDIR"):
        Survey([str(tmp_path / "a.wav")])

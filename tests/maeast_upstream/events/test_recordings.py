"""Recordings and their events, or one line that says what is wrong with the table."""

import logging

import numpy as np
import pytest

from maeast_upstream.events.recordings import read_recordings, step_targets
from maeast_upstream.events.smoothing import Event

HEADER = "path,label,start_ms,end_ms,split\n"


@pytest.fixture
def table(tmp_path):
    """A function that writes a table beside the files a.wav and b.wav."""
    for name in "ab":
        (tmp_path / f"{name}.wav").touch()

    def write(rows, header=HEADER):
        path = tmp_path / "events.csv"
        path.write_text(header + rows)
        return path

    return write


def test_a_row_without_label_is_a_recording_without_events(table):
    recordings = read_recordings(table("a.wav,kick,0,100,train\nb.wav,,,,test\na.wav,clap,50,60,train\n"))
    assert [(each.path[-5:], each.split, len(each.rows)) for each in recordings] == [
        ("a.wav", "train", 2),
        ("b.wav", "test", 0),
    ]
    assert recordings[1].events(1000.0) == []


def test_events_that_overlap_are_one_and_are_counted(table, caplog):
    rows = "a.wav,kick,0,100,train\na.wav,kick,90,150,train\na.wav,kick,150,200,train\na.wav,clap,90,150,train\n"
    with caplog.at_level(logging.WARNING):
        (recording,) = read_recordings(table(rows))
    assert recording.events(1000.0) == [
        Event("kick", 0.0, 150.0), Event("clap", 90.0, 150.0), Event("kick", 150.0, 200.0)
    ]  # fmt: skip
    assert "1 event overlap" in caplog.text
    assert "row 2" in caplog.text


def test_an_event_ends_where_its_recording_ends_and_must_not_begin_there(table):
    (recording,) = read_recordings(table("a.wav,kick,0,100,train\na.wav,kick,500,900,train\n"))
    assert recording.events(800.0)[-1] == Event("kick", 500.0, 800.0)
    with pytest.raises(ValueError, match=r"row 2.*begins at 500 ms.*ends at 500 ms"):
        recording.events(500.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.wav,kick,0,100,train\nb.wav,clap,0,100,valid\n", "'clap' in train, only in valid"),
        ("a.wav,kick,0,100,train\na.wav,clap,0,100,valid\n", "row 2 has .*a.wav in valid, an earlier one in train"),
        ("a.wav,,,,train\nb.wav,,,,valid\n", "no event in train"),
        ("a.wav,kick,0,9,train\nb.wav,,,,valid\n", "no event in valid"),
        ("a.wav,kick,,100,train\n", "row 1 has no start_ms"),
        ("a.wav,kick,100,,train\n", "row 1 has no end_ms"),
        ("a.wav,,0,100,train\n", "row 1 has no label"),
        ("a.wav,kick,100,100,train\n", "row 1.*starts at 100 ms and ends at 100 ms"),
        ("a.wav,kick,-1,100,train\n", "row 1.*-1"),
        ("c.wav,kick,0,100,train\n", "no such clip.*c.wav"),
        ("a.wav,kick,0,100,train\na.wav,kick,0,100,train\n", "row 2 says the same as row 1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(table, rows, words):
    with pytest.raises(ValueError, match=words) as error:
        read_recordings(table(rows))
    assert "\n" not in str(error.value)


def test_a_step_belongs_to_the_events_that_its_centre_lies_in():
    times_ms = np.array([7.5, 47.5, 87.5, 127.5])
    events = [Event("kick", 40.0, 90.0), Event("clap", 100.0, 110.0)]
    assert step_targets(events, times_ms, ["clap", "kick"]).tolist() == [
        [False, False],
        [False, True],
        [True, True],
        [False, False],
    ]

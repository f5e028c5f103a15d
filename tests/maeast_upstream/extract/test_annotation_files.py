"""Files for Raven and Audacity: what is written is read again, whatever the names, and adjacent windows are joined."""

import itertools
import os
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maeast_upstream.data.labelled_segments import read_labelled_segments
from maeast_upstream.data.recordings import INDEX_NAME, as_field, from_field
from maeast_upstream.data.times import time_ms
from maeast_upstream.display import as_name
from maeast_upstream.extract.annotation_files import (
    ENDINGS,
    Found,
    absolute,
    audacity_lines,
    by_recording,
    merge_adjacent,
    raven_lines,
    seconds,
    write_annotations,
)
from maeast_upstream.storage.folder import Storage

NAMES = [
    *(
        "a.wav",
        "a.flac",
        "sub/a.wav",
        "a.wav.txt/b.wav",
        "=1+1.wav",
        " blank .wav",
        "tab\tin it.wav",
        "line\nbreak.wav",
    ),
    *(
        "Zaunkönig é.wav",
        "back\\slash.wav",
        "mark\\x09.wav",
        "mark\\xe9.wav",
        os.fsdecode(b"latin\xe9.wav"),
        "a.selections.wav",
    ),
    *(
        "日本語.ogg",
        "\u2028.wav",
        "\u202ereversed.wav",
        "'quoted'.wav",
        '"quoted", too.wav',
        "-rf.wav",
        "x" * 200 + ".wav",
    ),
]
LABELS = [
    "dog",
    "grey\tcat",
    "two\nlines\r\n",
    "\\x09",
    "\\",
    "=1+1",
    "'",
    '"',
    " blank ",
    "Zaunkönig",
    "0.5",
    "日本語",
    "\x7f",
    "\u2028",
]


def found_in(folder, rng, names=NAMES):
    rows = []
    for name in names:
        for number, label in enumerate(LABELS):
            start = rng.choice([0.0625, 0.1, 1001.0, 12345.678901]) + 5000.0 * number
            end = round(start + rng.choice([500.0, 1.1]), 6)
            rows.append(Found(as_name(name), start, end, label, rng.random()))
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return rows


def values_of(rows, folder):
    return sorted((os.path.relpath(row.path, folder), row.start_ms, row.end_ms, row.label) for row in rows)


@pytest.mark.parametrize("form", ENDINGS)
def test_what_is_written_is_read_again_with_the_same_rows(tmp_path, form):
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    rows = found_in(audio, random.Random(0))
    assert write_annotations(Storage(out), by_recording(lambda: iter(rows)), form, str(audio)) == len(NAMES)
    read = read_labelled_segments(out)
    expected = sorted(
        (name, row.start_ms, row.end_ms, row.label) for name in NAMES for row in rows if row.path == as_name(name)
    )
    assert values_of(read, audio) == expected
    assert len(list(out.rglob("*.txt"))) == len(NAMES)


@pytest.mark.parametrize("form", ENDINGS)
def test_names_stay_in_the_folder_and_say_which_recording_it_is(tmp_path, form):
    rows = [Found(path, 0.0, 1.0, "x", 1.0) for path in ("sub/a.wav", "../b.wav", "/data/c.wav", "s3://b/d.wav")]
    write_annotations(Storage(tmp_path / "out"), by_recording(lambda: rows), form)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    places = ("sub/a.wav", "__/b.wav", "_/data/c.wav", "_s3/b/d.wav")
    assert names == {f"out/{place}{ENDINGS[form]}" for place in places} | {f"out/{INDEX_NAME}"}


def test_a_selection_table_has_the_columns_that_raven_and_birdnet_know():
    header, row = raven_lines([Found("a.wav", 1500.0, 3000.0, "dog", 0.98765)], "/data")
    assert header == (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tAnnotation\t"
        "Confidence\tBegin Path\tFile Offset (s)\n"
    )
    assert row == "1\tSpectrogram 1\t1\t1.500000\t3.000000\t0\t8000\tdog\t0.9877\t/data/a.wav\t1.500000\n"


def test_a_label_track_has_six_digits_and_the_probability_behind_the_label():
    assert list(audacity_lines([Found("a.wav", 1500.0, 3000.0625, "dog", 0.98765)])) == [
        "1.500000\t3.0000625\tdog\t0.9877\n"
    ]


@given(st.integers(0, 1 << 40))
def test_times_of_samples_are_exact(samples):
    ms = samples / 16
    assert time_ms(seconds(ms), 1000.0, "") == ms
    assert len(seconds(ms).partition(".")[2]) >= 6


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\\x5cx09")
@example(" ")
def test_any_text_is_one_field_of_one_line(text):
    field = as_field(text)
    assert from_field(field) == text
    assert not set(field) & set("\t\r\n\0\x1b")
    assert field == field.strip()


WINDOWS = st.tuples(
    st.sampled_from("ab"), st.integers(0, 12), st.integers(1, 4), st.sampled_from("xy"), st.integers(0, 9)
)


@given(st.lists(WINDOWS, max_size=12), st.integers(0, 2))
@settings(max_examples=100)
def test_merged_parts_cover_what_was_found_and_stand_apart(windows, gap):
    rows = [
        Found(path, start * 1000.0, (start + length) * 1000.0, label, p / 10)
        for path, start, length, label, p in windows
    ]
    merged = merge_adjacent(rows, gap * 1000.0)
    for path, label in {(row.path, row.label) for row in rows}:
        mine = sorted((row for row in rows if (row.path, row.label) == (path, label)), key=lambda row: row.start_ms)
        # the plain form: a second is covered or in a gap that is small enough
        covered = {at for row in mine for at in range(int(row.start_ms), int(row.end_ms), 1000)}
        edges = sorted(covered)
        for before, after in itertools.pairwise(edges):
            if after - before - 1000 <= gap * 1000:
                covered |= set(range(before, after, 1000))
        parts = [row for row in merged if (row.path, row.label) == (path, label)]
        assert sorted(at for row in parts for at in range(int(row.start_ms), int(row.end_ms), 1000)) == sorted(covered)
        for part in parts:
            inside = [row.probability for row in mine if part.start_ms <= row.start_ms < part.end_ms]
            assert part.probability == max(inside)


def test_windows_of_one_label_that_follow_one_another_become_one_part():
    rows = [Found("a", 0, 5000, "x", 0.5), Found("a", 5000, 10000, "x", 0.9), Found("a", 5000, 10000, "y", 0.1)]
    rows += [Found("a", 10000.5, 12000, "x", 0.8), Found("b", 10000, 12000, "x", 0.2)]
    assert merge_adjacent(rows) == [
        Found("a", 0, 10000, "x", 0.9),
        Found("a", 5000, 10000, "y", 0.1),
        Found("a", 10000.5, 12000, "x", 0.8),
        Found("b", 10000, 12000, "x", 0.2),
    ]
    assert merge_adjacent(rows, 0.5)[0] == Found("a", 0, 12000, "x", 0.9)
    assert merge_adjacent([]) == []


def test_rows_of_a_recording_come_together_and_others_are_not_kept():
    rows = [Found(path, float(number), number + 1.0, "x", 0.0) for number, path in enumerate("aabacc")]
    groups = list(by_recording(lambda: iter(rows)))
    assert [(path, [row.start_ms for row in group]) for path, group in groups] == [
        ("b", [2.0]),
        ("a", [0.0, 1.0, 3.0]),
        ("c", [4.0, 5.0]),
    ]


def test_paths_are_absolute_from_the_folder_that_they_are_relative_to():
    assert absolute("sub/a.wav", "/data") == "/data/sub/a.wav"
    assert absolute("/x/a.wav", "/data") == "/x/a.wav"
    assert absolute("s3://b/a.wav", "/data") == "s3://b/a.wav"
    assert absolute("a.wav") == str(Path.cwd() / "a.wav")


def test_a_recording_that_was_moved_is_named(tmp_path):
    (tmp_path / "a.wav").touch()
    write_annotations(
        Storage(tmp_path / "out"), [("a.wav", [Found("a.wav", 0.0, 1.0, "x", 1.0)])], "audacity", str(tmp_path)
    )
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"a\.wav\.txt: no such recording: .*/a\.wav, and no a\.wav beside the table"):
        read_labelled_segments(tmp_path / "out")

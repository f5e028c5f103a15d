"""Selection tables of Raven and label tracks of Audacity, as labels and as manifests, or one line on what is wrong."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maeast_upstream.data.inputs import list_segments
from maeast_upstream.data.labelled_segments import has_times, read_labelled_segments
from maeast_upstream.data.manifest import read_manifest

HEADER = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
RAVEN = (
    f"{HEADER}\tSpecies\n"
    "1\tWaveform 1\t1\t0.500\t1.250\t0.0\t8000.0\tdog\n"
    "1\tSpectrogram 1\t1\t0.500\t1.250\t300.0\t4000.0\tdog\n"
    "2\tWaveform 1\t1\t1.001\t2\t0.0\t8000.0\tgrey  cat\n"
    "2\tSpectrogram 1\t1\t1.001\t2\t300.0\t4000.0\tgrey  cat\n"
)
BIRDNET = (
    f"{HEADER}\tCommon Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)\n"
    "1\tSpectrogram 1\t1\t0\t3.0\t0\t15000\tGreat Tit\tgretit1\t0.9312\tC:\\audio\\a.wav\t0\n"
    "2\tSpectrogram 1\t1\t63.5\t66.5\t0\t15000\tGreat Tit\tgretit1\t0.5\t/data/b.wav\t3.5\n"
    "3\tSpectrogram 1\t1\t70\t73\t0\t15000\tnocall\tnocall\t1.0\t/data/b.wav\t0\n"
)
AUDACITY = (
    "0.500000\t1.250000\tdog\n\\\t300.000000\t4000.000000\n1.001000\t2.000000\tgrey  cat\n2.5\t2.5\tclick\n3,25\told\n"
)


def folder_with(path, recordings=("a.wav",), **texts):
    for name in recordings:
        (path / name).write_bytes(b"x")
    for name, text in texts.items():
        (path / f"{name}.txt").write_text(text)
    return path


def labels_of(table, folder, names=()):
    rows = read_labelled_segments(table, dict(names))
    return [(row.path.removeprefix(f"{folder}/"), row.start_ms, row.end_ms, row.label) for row in rows]


def test_a_selection_of_raven_counts_once_though_it_has_a_row_for_each_view(tmp_path):
    folder_with(tmp_path, a=RAVEN)
    assert labels_of(tmp_path / "a.txt", tmp_path) == [
        ("a.wav", 500.0, 1250.0, "dog"),
        ("a.wav", 1001.0, 2000.0, "grey  cat"),
    ]
    assert [row.number for row in read_labelled_segments(tmp_path / "a.txt")] == [1, 3]
    assert has_times(tmp_path / "a.txt")


def test_a_table_of_birdnet_gives_files_beside_it_and_times_in_them(tmp_path):
    folder_with(tmp_path, ("a.wav", "b.wav"), found=BIRDNET)
    assert labels_of(tmp_path / "found.txt", tmp_path) == [
        ("a.wav", 0.0, 3000.0, "Great Tit"),
        ("b.wav", 3500.0, 6500.0, "Great Tit"),
    ]


def test_a_label_track_has_regions_points_and_lines_of_frequencies(tmp_path):
    folder_with(tmp_path, a=AUDACITY)
    assert labels_of(tmp_path / "a.txt", tmp_path) == [
        ("a.wav", 500.0, 1250.0, "dog"),
        ("a.wav", 1001.0, 2000.0, "grey  cat"),
        ("a.wav", 2500.0, 2500.0, "click"),
        ("a.wav", 3250.0, 3250.0, "old"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_both_may_be_in_any_encoding_and_have_any_line_ends(tmp_path, encoding, end):
    folder_with(tmp_path)
    for text in (RAVEN, AUDACITY):
        (tmp_path / "a.txt").write_text(text.replace("dog", "Zaunkönig"), encoding, newline=end)
        assert labels_of(tmp_path / "a.txt", tmp_path)[0] == ("a.wav", 500.0, 1250.0, "Zaunkönig")


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a.wav",
        "a.Table.1.selections",
        "a.wav.Table.12.selections.selections",
        "a.selections",
        "a.BirdNET.selection.table",
        "a.BirdNET.results",
    ],
)
def test_the_recording_of_a_table_is_the_audio_file_of_its_name(tmp_path, name):
    folder_with(tmp_path, ("a.wav", "ab.wav", ".a.wav"), **{name: RAVEN})
    assert {path for path, *_ in labels_of(tmp_path / f"{name}.txt", tmp_path)} == {"a.wav"}


def test_the_whole_name_of_a_recording_is_enough_among_several_of_its_stem(tmp_path):
    folder_with(tmp_path, ("a.wav", "a.FLAC"), **{"a.FLAC": AUDACITY})
    assert labels_of(tmp_path / "a.FLAC.txt", tmp_path)[0][0] == "a.FLAC"


def test_the_begin_path_of_this_machine_comes_before_a_file_beside_the_table(tmp_path):
    (tmp_path / "audio").mkdir()
    folder_with(tmp_path / "audio", ("a.wav",))
    folder_with(tmp_path, ("a.wav",), relative=f"{HEADER}\tBegin Path\tSpecies\n1\t\t1\t0\t1\t0\t1\taudio/a.wav\tdog\n")
    assert labels_of(tmp_path / "relative.txt", tmp_path) == [("audio/a.wav", 0.0, 1000.0, "dog")]


def test_columns_of_labels_paths_and_splits_may_be_named(tmp_path):
    header = f"{HEADER}\tSpecies\tCall type\tFile\tFold\n"
    folder_with(tmp_path, ("a.wav",), t=f"{header}1\tSpectrogram 1\t1\t0\t1\t0\t1\tdog\tbark\ta.wav\tdev\n")
    names = {"label": "call type", "path": "file", "split": "fold"}
    (row,) = read_labelled_segments(tmp_path / "t.txt", names)
    assert (row.path, row.label, row.split) == (str(tmp_path / "a.wav"), "bark", "valid")


def test_labels_of_a_folder_are_those_of_all_its_tables_and_tracks(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    folder_with(tmp_path / "sub", ("b.wav",), b=AUDACITY)
    folder_with(tmp_path, a=RAVEN, README="Recorded in May.\n", empty="", c=f"{HEADER}\tSpecies\n", c_="")
    (tmp_path / "c.wav").touch()
    assert [path for path, *_ in labels_of(tmp_path, tmp_path)] == ["a.wav"] * 2 + ["sub/b.wav"] * 4
    assert has_times(tmp_path)
    assert "left out, neither selection tables nor label tracks: " in caplog.text
    assert "README.txt" in caplog.text


@pytest.mark.parametrize("text", [RAVEN, AUDACITY.partition("2.5")[0]])
def test_both_are_manifests(tmp_path, text):
    folder_with(tmp_path, a=text)
    rows = [
        (os.path.relpath(row.path, tmp_path), row.start_ms, row.end_ms)
        for row in read_manifest(str(tmp_path / "a.txt"))
    ]
    assert rows == [("a.wav", 500.0, 1250.0), ("a.wav", 1001.0, 2000.0)]
    listed = list(list_segments([tmp_path / "a.txt"]))
    assert [(item.path, item.start_ms, item.end_ms) for item in listed] == [
        (str(tmp_path / "a.wav"), 500.0, 1250.0),
        (str(tmp_path / "a.wav"), 1001.0, 2000.0),
    ]


def test_two_labels_of_the_same_part_are_one_row_of_a_manifest(tmp_path):
    folder_with(tmp_path, a="0\t1\tdog\n0\t1\tcat\n")
    assert len(list(read_manifest(str(tmp_path / "a.txt")))) == 1
    assert len(read_labelled_segments(tmp_path / "a.txt")) == 2


def table(*cells, header=f"{HEADER}\tSpecies"):
    return f"{header}\n" + "\t".join(map(str, cells)) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r": an empty file"),
        (
            "Recorded in May.\n",
            r": expected a selection table of Raven .* or a label track .*, got 'Recorded in May\.'",
        ),
        (
            RAVEN.replace("\t", ","),
            r": expected a selection table of Raven \(a header .*tabs between values\).*got 'Sel",
        ),
        (table(1, "", 1, 2, 1, 0, 1, "dog"), r": line 2: starts at 2000 ms and ends at 1000 ms"),
        (table(1, "", 1, -1, 1, 0, 1, "dog"), r": line 2: Begin Time \(s\) is -1; expected 0 or more"),
        (table(1, "", 1, "1:30", 1, 0, 1, "dog"), r": line 2: Begin Time \(s\) '1:30' is not a number"),
        (table(1, "", 1, 0, "", 0, 1, "dog"), r": line 2: End Time \(s\) '' is not a number"),
        (table(1, "", 1, 0, 1, 0, 1, ""), r": line 2: no label"),
        (table(1, "", 1, 0, 1, 0, 1, "dog", "x"), r": line 2 has 9 values and the header 8 columns, separated by tabs"),
        (
            table(1, "", 1, 0, 1, 0, 1, header=HEADER),
            r": expected a column of labels, such as Species, .*--label-column",
        ),
        (
            table(1, header="Begin Time (s)\tSpecies"),
            r": no column 'End Time \(s\)', got 'Begin Time \(s\)', 'Species'",
        ),
        (
            table(header=f"{HEADER}\tSpecies\tAnnotation"),
            r": labels in 'Species' and 'Annotation'; --label-column names",
        ),
        (table(header=f"{HEADER}\tSpecies\tspecies"), r": two columns are called 'Species'"),
        (table(1, "", 1, 0, 1, 0, 1, "x", "", header=f"{HEADER}\tSpecies\tBegin Path"), r": line 2: no Begin Path"),
        (
            table(1, "", 1, 0, 1, 0, 1, "x", "D:\\b\\c.wav", header=f"{HEADER}\tSpecies\tBegin Path"),
            r": line 2: no such recording: D:\\b\\c\.wav, and no c\.wav beside the table",
        ),
        (
            table(header=f"{HEADER}\tSpecies\tBegin File\n1\t\t1\t0\t1\t0\t1\tx\ta.wav\n2\t\t1\t9\t10\t0\t1\tx\tb.wav"),
            r": line 3: a second recording, .*b\.wav; times in it need the column File Offset \(s\)",
        ),
        ("1\t0.5\tdog\n", r": line 1: starts at 1000 ms and ends at 500 ms"),
        ("0\t1\tdog\n-1\t0\tdog\n", r": line 2: start is -1; expected 0 or more"),
        ("0\t1\tdog\ndog\n", r": line 2: start 'dog' is not a number"),
        ("\\\t1\t2\n", r": expected a selection table"),
        ("0\t1\t\n", r": line 1: no label"),
        ("0\t1\n", r": line 1: no label"),
        (table(), r": no rows below the header"),
    ],
)
def test_what_is_wrong_with_an_annotation_file_is_one_line(tmp_path, text, reason):
    folder_with(tmp_path, ("a.wav", "b.wav"), a=text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_labelled_segments(tmp_path / "a.txt")
    assert str(caught.value).startswith(str(tmp_path / "a.txt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("recordings", "reason"),
    [
        ((), r"a\.txt: no recording beside it; expected a\.wav or the like, or a selection table with .* Begin Path"),
        (("a.flac", "a.wav"), r"a\.txt: a\.flac and a\.wav lie beside it; expected one recording, or"),
    ],
)
@pytest.mark.parametrize("text", [RAVEN, AUDACITY])
def test_no_recording_and_two_recordings_are_refused(tmp_path, recordings, reason, text):
    folder_with(tmp_path, recordings, a=text)
    for read in (read_labelled_segments, lambda path: list(list_segments([path]))):
        with pytest.raises(ValueError, match=reason):
            read(tmp_path / "a.txt")


def test_points_are_no_parts_to_embed(tmp_path):
    folder_with(tmp_path, a=AUDACITY)
    with pytest.raises(ValueError, match=r"a\.txt: line 4: a point at 2\.5 s; expected parts with a start and an end"):
        list(list_segments([tmp_path / "a.txt"]))


def test_a_folder_without_annotations_and_bytes_that_are_no_text_are_refused(tmp_path):
    folder_with(tmp_path, README="Recorded in May.\n")
    with pytest.raises(ValueError, match=r"a folder without selection tables of Raven or label tracks of Audacity"):
        read_labelled_segments(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"0\t1\tcaf\xe9\n")
    with pytest.raises(ValueError, match=r"a\.txt: line 1: caf\\xe9 is not in UTF-8; save the file as UTF-8"):
        read_labelled_segments(tmp_path / "a.txt")


def test_the_tables_of_two_annotators_of_a_recording_may_not_say_the_same(tmp_path):
    folder_with(tmp_path, **{"a.Table.1.selections": RAVEN, "a.Table.2.selections": RAVEN})
    with pytest.raises(
        ValueError, match=r"a\.Table\.2\.selections\.txt: row 1 says the same as .*1\.selections\.txt: row 1"
    ):
        read_labelled_segments(tmp_path)


PIECES = ["Begin Time (s)", "End Time (s)", "Species", "Begin Path", "File Offset (s)", "Species Code", "nocall"]
PIECES += [
    "\t",
    "\n",
    "\r",
    "\\",
    "\x00",
    "\ufeff",
    "\u2028",
    " ",
    *["0", "1.5", "-1", "1e9", "nan", "1,5", "dog", "a.wav", '"', ","],
]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_text_gives_rows_with_sensible_times_or_one_line(tmp_path_factory, pieces):
    folder = folder_with(tmp_path_factory.mktemp("fuzz"), a="".join(pieces))
    try:
        rows = read_labelled_segments(folder / "a.txt")
    except ValueError as error:
        assert "\n" not in str(error)
        assert "\r" not in str(error)
        return
    for row in rows:
        assert (row.path, row.label) == (str(folder / "a.wav"), row.label.strip())
        assert 0 <= row.start_ms <= row.end_ms < float("inf")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ValueError, match=r"a\.txt: a (pipe or device; expected a file|folder without sel)"):
        read_labelled_segments(path)


def test_an_address_is_refused():
    with pytest.raises(ValueError, match=r"an annotation file must be a file of this machine; download it"):
        list(read_manifest("memory://a.txt"))


def test_parts_of_a_real_recording_are_embedded(tmp_path):
    from maeast_upstream.extract.api import embed_files

    shutil.copy(next(Path("tests/data/audio").glob("long_drums.*")), tmp_path)
    (tmp_path / "long_drums.Table.1.selections.txt").write_text(RAVEN)
    rows = list(embed_files(tmp_path / "long_drums.Table.1.selections.txt", workers=0))
    assert [(row["start_ms"], row["end_ms"]) for row in rows] == [(500.0, 1250.0), (1001.0, 2000.0)]

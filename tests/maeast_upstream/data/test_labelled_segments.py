"""Labels of whole files and of parts of files, or one line that says what is wrong with the table."""

import pytest

from maeast_upstream.data.labelled_segments import has_times, read_labelled_segments


def written(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text)
    return path


def values_of(rows, folder):
    return [
        (row.path.removeprefix(f"{folder}/"), row.start_ms, row.end_ms, row.label, row.split, row.number)
        for row in rows
    ]


def test_labels_of_whole_files_have_no_times_and_no_split(tmp_path):
    table = written(tmp_path, "path,label\nsub/../a.wav, dog \nb.wav,'=cat\n")
    rows = read_labelled_segments(table)
    assert values_of(rows, tmp_path) == [("a.wav", None, None, "dog", "", 1), ("b.wav", None, None, "=cat", "", 2)]
    assert not has_times(table)
    assert rows[1].where == f"{table}: row 2"


@pytest.mark.parametrize(
    "text",
    [
        "path,label,start_ms,end_ms,split\na.wav,dog,500,1500,train\na.wav,cat,500,1500,valid\na.wav,dog,,2000,Test\n",
        "path\tlabel\tstart\tend\tsplit\na.wav\tdog\t0.5\t1.5\ttraining\na.wav\tcat\t.5\t1.5\tval\na.wav\tdog\t\t2\ttest",
    ],
)
def test_parts_of_a_file_may_have_several_labels_and_times(tmp_path, text):
    table = written(tmp_path, text)
    assert values_of(read_labelled_segments(table), tmp_path) == [
        ("a.wav", 500.0, 1500.0, "dog", "train", 1),
        ("a.wav", 500.0, 1500.0, "cat", "valid", 2),
        ("a.wav", None, 2000.0, "dog", "test", 3),
    ]
    assert has_times(table)


def test_columns_of_times_and_splits_without_values_count_for_nothing(tmp_path):
    table = written(tmp_path, "path,label,start_ms,end_ms,split\na.wav,dog,,,\n")
    assert values_of(read_labelled_segments(table), tmp_path) == [("a.wav", None, None, "dog", "", 1)]
    assert not has_times(table)


def test_columns_may_have_other_names_and_paths_may_be_addresses(tmp_path):
    table = written(tmp_path, f"file;species;fold\ns3://b/x.wav;dog;dev\nfile://{tmp_path}/y.wav;cat;train\n")
    rows = read_labelled_segments(table, {"path": "File", "label": "species", "split": "fold"})
    assert values_of(rows, tmp_path) == [
        ("s3://b/x.wav", None, None, "dog", "valid", 1),
        ("y.wav", None, None, "cat", "train", 2),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label\n", r": no rows below the header"),
        ("path,class\na.wav,dog\n", r": no column 'label'; expected path,label, got 'path', 'class'; --label-column"),
        ("path,label,Label\na.wav,dog,dog\n", r": two columns are called 'label'"),
        ("path,label,end,end_ms\na.wav,dog,1,1000\n", r": both end \(in seconds\) and end_ms; keep one"),
        ("path,label\n,dog\n", r": row 1 has no path"),
        ("path,label\na.wav,dog\nb.wav, \n", r": row 2 has no label"),
        ("path,label\na.wav,dog\na.wav,cat\na.wav,dog\n", r": row 3 says the same as row 1: .*a\.wav, 'dog'"),
        ("path,label,start\na.wav,dog,-1\n", r": row 1: start is -1; expected 0 or more"),
        ("path,label,start,end\na.wav,dog,2,1\n", r": row 1: starts at 2000 ms and ends at 1000 ms"),
        ("path,label,start,end\na.wav,dog,1,1\n", r": row 1: starts at 1000 ms and ends at 1000 ms"),
        ("path,label,split\na.wav,dog,eval\n", r"unknown split 'eval'"),
        ("path,label,split\na.wav,dog,train\nb.wav,dog,\n", r": row 2 has no split, which other rows have"),
        ("path,label\na\0.wav,dog\n", r": row 1: .* is not a path"),
    ],
)
def test_what_is_wrong_with_labels_is_one_line(tmp_path, text, reason):
    table = written(tmp_path, text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_labelled_segments(table)
    assert str(caught.value).startswith(str(table))
    assert "\n" not in str(caught.value)


def test_a_label_in_other_bytes_is_refused(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"path,label\na.wav,caf\xe9\n")
    with pytest.raises(ValueError, match=r"row 1: caf\\xe9 is not in UTF-8; save the table as UTF-8"):
        read_labelled_segments(tmp_path / "l.csv")


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.csv: no such file; expected columns path,label"):
        read_labelled_segments(tmp_path / "nothing.csv")


def test_a_row_without_label_and_times_may_be_a_file_without_events(tmp_path):
    table = written(tmp_path, "path,label,start_ms,end_ms\na.wav,dog,0,10\nb.wav,,,\n")
    assert values_of(read_labelled_segments(table, background=True), tmp_path)[1] == ("b.wav", None, None, "", "", 2)
    with pytest.raises(ValueError, match="row 2 has no label"):
        read_labelled_segments(table)
    table = written(tmp_path, "path,label,start_ms,end_ms\na.wav,,0,10\n")
    with pytest.raises(ValueError, match="row 1 has no label"):
        read_labelled_segments(table, background=True)

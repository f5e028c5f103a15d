"""Tables that people hand in: any separator, encoding and line end, or one line that says what is wrong."""

import codecs
import os
import re

import pytest

from maeast_upstream.data.inputs import list_segments
from maeast_upstream.data.labels import read_splits, read_table
from maeast_upstream.data.manifest import read_manifest
from maeast_upstream.storage.text import MAX_LINE

ROWS = [("path", "start", "end"), ("a, b;c.wav", "0.5", "1.5"), ("é.wav", "", "2")]
EXPECTED = [("a, b;c.wav", 500.0, 1500.0), ("é.wav", None, 2000.0)]


def rows_of(path, **options):
    return [
        (os.path.relpath(row.path, path.parent), row.start_ms, row.end_ms)
        for row in read_manifest(str(path), **options)
    ]


def written(folder, text, name="m.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def joined(separator, end="\n"):
    return "".join(separator.join(f'"{value}"' for value in row) + end for row in ROWS)


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_manifest_of_any_separator_encoding_and_line_end_gives_the_same_rows(
    tmp_path, name, separator, end, encoding
):
    assert rows_of(written(tmp_path, joined(separator, end), name, encoding)) == EXPECTED


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE])
def test_big_endian_text_with_a_byte_order_mark_is_read(tmp_path, mark):
    encoding = "utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-32-be"
    assert rows_of(written(tmp_path, mark + joined(",").encode(encoding))) == EXPECTED


def test_a_spreadsheet_s_line_names_the_separator(tmp_path):
    assert rows_of(written(tmp_path, "sep=;\r\npath;start\r\na.wav;1,5\r\n")) == [("a.wav", 1500.0, None)]


def test_empty_lines_and_rows_without_values_count_for_nothing(tmp_path):
    assert rows_of(written(tmp_path, "\n\npath,end\n\na.wav,1\n,\n , \nb.wav,2,,\n")) == [
        ("a.wav", None, 1000.0),
        ("b.wav", None, 2000.0),
    ]


@pytest.mark.parametrize("column", ["path", "file", "Audio Path", " audio path "])
def test_the_column_of_paths_may_have_another_name(tmp_path, column):
    table = written(tmp_path, f"id;{column.strip().upper()} ;end\n1;a.wav;2\n")
    assert rows_of(table, path_column=column) == [("a.wav", None, 2000.0)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,start\nx.wav,1\n", r"expected a header with the column path.* got 'file', 'start'; --path-column"),
        ("file;start\nx.wav;1\n", r"got 'file', 'start'"),
        ("path,Path\nx,y\n", r"two columns are called 'path'"),
        ("path,end\na,b.wav,1\n", r"row 0 .* has 3 values and the header 2 columns, separated by commas; quote"),
        ("path,end\na.wav,1:30\n", r"row 0 .*: end '1:30' is not a number"),
        ('path,end\na.wav,"1,5"\n', r"row 0 .*: end '1,5' is not a number; write a decimal point"),
        ("path;end\na.wav;1.500,5\n", r"row 0 .*: end '1.500,5' is not a number"),
        ("path,end\na.wav,1_000\n", r"row 0 .*: end '1_000' is not a number"),
        ("path,end\na.wav,1e306\n", r"row 0 .*: end is 1e306; expected 0 or more, up to 1e\+09"),
        ("path,end_ms\na.wav,1e308\n", r"row 0 .*: end_ms is 1e308; expected 0 or more, up to 1e\+12"),
        ("path,start_ms\na.wav,inf\n", r"row 0 .*: start_ms is inf"),
        ("path,start_ms\na.wav,-0.5\n", r"row 0 .*: start_ms is -0.5"),
        ("path,start\na.wav,1\n".encode("utf-16-le"), r"zero bytes: save it as text in UTF-8"),
        (b"PK\x03\x04\x14\x00", r"a zip archive or a workbook: save it as CSV"),
        ("path\na.wav\n".encode("utf-16") + b"\x00", r"line 3 is not in utf-16"),
        ('path\n"a.wav\nb.wav\n', r"row 0 .*: not a table that can be read .*quotation mark"),
        ("path," + "x" * 200_000 + "\na.wav,1\n", r"expected a header"),
        ("x" * (MAX_LINE + 1), rf"line 1 has more than {MAX_LINE} characters"),
        ("path\n" + "x" * (MAX_LINE + 1), rf"line 2 has more than {MAX_LINE} characters"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        rows_of(written(tmp_path, text))
    assert str(tmp_path / "m.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_row_of_quoted_lines_without_end_is_refused_within_memory(tmp_path):
    path = tmp_path / "m.csv"
    with path.open("w") as file:
        file.write("path\n")
        for _ in range(3 * MAX_LINE // 50_000):
            file.write('"' + "x\n" * 25_000 + '",')
    with pytest.raises(ValueError, match=r"row 0 .* has more than \d+ characters"):
        rows_of(path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_table_without_end_is_refused(tmp_path, kind):
    path = tmp_path / "m.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"m\.csv: a pipe or device; expected a file"):
        rows_of(path)


LABELS = "Path; LABEL ;Split\n{0};dog;Train\n{1};cat;training\n{2};dog;VALIDATION\n{3};cat;dev\n{4};dog;Test\n"


def labelled(folder, text=LABELS, encoding="utf-8-sig"):
    for number in range(5):
        (folder / f"{number}é.wav").write_bytes(b"x")
    return written(folder, text.format(*(f"{number}é.wav" for number in range(5))), "labels.csv", encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_are_read_as_spreadsheets_write_them(tmp_path, encoding):
    rows = read_splits(labelled(tmp_path, encoding=encoding))
    assert list(rows.values()) == [
        ("dog", "train"),
        ("cat", "train"),
        ("dog", "valid"),
        ("cat", "valid"),
        ("dog", "test"),
    ]
    assert next(iter(rows)).name == "0é.wav"


def test_the_columns_of_labels_may_have_other_names(tmp_path):
    table = labelled(tmp_path, LABELS.replace("Path", "file").replace("LABEL", "class").replace("Split", "fold"))
    rows = read_splits(table, names={"path": "File", "label": "class", "split": "FOLD"})
    assert {label for label, _ in rows.values()} == {"dog", "cat"}
    with pytest.raises(
        ValueError, match=r"no column 'path'; expected path,label,split, got 'file', 'class', 'fold'; --path-"
    ):
        read_splits(table)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("dev", "eval"), r"unknown split 'eval'; expected train, valid, test, .*dev"),
        (lambda text: text.replace("{0}", "nowhere.wav"), r"no such clip: .*/nowhere\.wav; paths are relative to"),
        (lambda text: text.replace("{0}", "x.wav").replace("{2}", "y.wav"), r"2 of 5 clips do not exist; the first: "),
        (lambda text: text.replace("{0}", r"sub\0.wav"), r"0\.wav; a path has / between folders, not \\"),
        (lambda text: text.replace("{0}", "s3://b/x.wav"), r"s3:/b/x\.wav; labels need files of this machine"),
        (lambda text: text.replace("{1}", "{0}"), r"row 2 lists 0é\.wav a second time"),
        (lambda text: text.replace("cat", "  ", 1), r"row 2 has no label"),
        (lambda text: text.replace("LABEL", "PATH"), r"two columns are called 'path'"),
    ],
)
def test_what_is_wrong_with_labels_is_one_line(tmp_path, change, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_splits(labelled(tmp_path, change(LABELS)))
    assert "\n" not in str(caught.value)


def test_a_file_address_is_a_path(tmp_path):
    table = labelled(tmp_path, LABELS.replace("{0}", f"file://{tmp_path}/0é.wav"))
    assert next(iter(read_splits(table))) == tmp_path / "0é.wav"


def test_blanks_around_a_path_belong_to_it_only_if_there_is_such_a_file(tmp_path):
    (tmp_path / " a.wav ").touch()
    table = written(tmp_path, "path,end\n a.wav ,1\n b.wav\t,1\n")
    assert [path for path, *_ in rows_of(table)] == [" a.wav ", "b.wav"]


def test_labels_that_look_alike_are_named(tmp_path, caplog):
    read_splits(labelled(tmp_path, LABELS.replace("cat", "Dog")))
    assert "the labels 'Dog' and 'dog' differ in capitals or blanks only" in caplog.text


def test_names_of_clips_in_any_bytes_are_kept_and_labels_in_them_are_refused(tmp_path):
    (tmp_path / os.fsdecode(b"\xe9.wav")).write_bytes(b"x")
    (tmp_path / "l.csv").write_bytes(b"path,label\n\xe9.wav,x\n")
    assert read_table(tmp_path / "l.csv", ["path", "label"]) == [(os.fsdecode(b"\xe9.wav"), "x")]
    (tmp_path / "l.csv").write_bytes(b"path,label\na.wav,caf\xe9\n")
    with pytest.raises(ValueError, match=r"row 1: caf\\xe9 is not in UTF-8; save the table as UTF-8"):
        read_table(tmp_path / "l.csv", ["path", "label"])


@pytest.mark.parametrize(
    ("header", "ignored"),
    [
        ("path,offset,duration", "'offset', 'duration'"),
        ("path,start,duration", "'duration'"),
        ("path,Begin Time (s),End Time (s)", r"'Begin Time \(s\)', 'End Time \(s\)'"),
        ("path,start_time,end_time,start,end", "'start_time', 'end_time'"),
    ],
)
def test_columns_that_look_like_times_but_are_not_read_are_named_once(tmp_path, caplog, header, ignored):
    table = written(tmp_path, f"{header}\na.wav{',1' * header.count(',')}\n".replace(",1,1,1,1", ",1,2,1,2"))
    list(list_segments([str(table)]))
    (record,) = caplog.records
    assert re.search(f"ignored: {ignored}; times of segments are read from start_ms", record.getMessage())


@pytest.mark.parametrize("header", ["path,start,end", "path,duration,label", "path,end", "path,stage,sender"])
def test_other_columns_are_ignored_without_a_word(tmp_path, caplog, header):
    list(list_segments([str(written(tmp_path, f"{header}\na.wav,1,{'2' if ',start' in header else ''}\n"))]))
    assert not caplog.records

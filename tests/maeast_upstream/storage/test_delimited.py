import csv
import io

import pytest

from maeast_upstream.storage.delimited import as_cell, from_cell, lines, write_csv

NAMES = ["=cmd|' /C calc'!A0.wav", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1+1", "'=x", "''@x"]
PLAIN = ["a.wav", "", "'quoted'", "a=b", "-0.5", "+1e-3", "12", "1.", "'tis.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_spreadsheet_would_run_is_text(name):
    assert as_cell(name) == f"'{name}"
    assert from_cell(f"'{name}") == name


@pytest.mark.parametrize("value", [*PLAIN, 3, -0.5, None])
def test_everything_else_stays_as_it_is(value):
    assert as_cell(value) is value
    assert not isinstance(value, str) or from_cell(value) == value


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_every_row_comes_back_as_it_was(delimiter):
    rows = [[name, "a\tb,c", 'say "x"', "two\r\nlines"] for name in NAMES + PLAIN]
    text = "".join(lines(rows, delimiter))
    assert [
        [from_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    ] == rows


def test_a_name_that_is_not_utf8_is_written_with_a_mark(tmp_path):
    write_csv(tmp_path / "a.csv", [["caf\udce9.wav", "=1"]])
    assert (tmp_path / "a.csv").read_text() == "caf\\udce9.wav,'=1\n"

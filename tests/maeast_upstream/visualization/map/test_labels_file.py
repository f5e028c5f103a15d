"""A map page reads a labels.csv as other commands do, writes one that they read, and keeps labels with their clips."""

import os
from pathlib import Path

import numpy as np
import pytest
from map_pages import block, errors, fresh, make_page, open_page, saved_labels, state_of, wait_for
from map_tables import write_table

from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.display import as_name
from maeast_upstream.visualization.map.labels import labels_of

pytestmark = pytest.mark.slow

STARTS = np.array([0.0, 1000.0, 2000.0, 3000.0])


@pytest.fixture(autouse=True)
def _leave_quietly(browser):
    yield
    browser.execute_script("unsaved = false")
    errors(browser)  # of linked files that do not exist, or the next test would find them


def write_vectors(path: Path, names, **columns) -> Path:
    return write_table(path, names, np.random.default_rng(0).normal(size=(len(names), 5)), **columns)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """The table and the page of four windows of a recording."""
    folder = tmp_path_factory.mktemp("windows")
    columns = {"segment": [0] * 4, "start_ms": STARTS, "end_ms": STARTS + 1000}
    table = write_vectors(folder / "t.parquet", [f"{folder}/a.wav"] * 4, **columns)
    make_page(table)
    return table


def load(browser, file: Path) -> str:
    """Load a labels.csv on the page; what the page says of it."""
    browser.execute_script("document.getElementById('status').textContent = ''")
    browser.find_element("id", "load").send_keys(str(file))
    return wait_for(browser, "document.getElementById('status').textContent")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.wav,x\n",
        "path,label,start,end\na.wav,x,1,2\n",
        "path;label;start_ms;end_ms\na.wav;x;1000,0;2000,0\n",
        "path,label,start_ms,end_ms\na.wav,x,1000.4,1999.7\n",
        "path,label,start_ms,end_ms\na.wav,x,1000,2000\na.wav,y,1000,2000\n",
        "path,label,start_ms\na.wav,x,2000\n",
        "path,label,end_ms\na.wav,x,1000\n",
        "sep=;\npath;label\na.wav;x\n",
    ],
)
def test_a_labels_csv_means_the_same_to_the_page_and_to_the_option(browser, windows, text):
    fresh(browser, windows.with_suffix(".html"))
    file = windows.with_name("labels.csv")
    file.write_text(text)
    assert "read" in load(browser, file)
    expected = labels_of(read_embeddings(windows), file).values
    assert any(expected)
    assert state_of(browser)["labels"] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label,start_ms\na.wav,x,0\na.wav,x,abc\n",
            "row 2: expected a time of 0 or more, got abc",
        ),
        ("path,label,start_ms\na.wav,x,-5\n", "row 1: expected a time of 0 or more, got -5"),
        ('path,label,start_ms,end_ms\na.wav,"x,0,1000\n', "a quotation mark that is never closed"),
        ("path,label\na.wav,caf\xe9\n", "row 1: the label caf\\xe9 is not in UTF-8"),
        ("path,label,start,start_ms\na.wav,x,1,1000\n", "both start (in seconds) and start_ms"),
    ],
)
def test_what_cannot_be_read_labels_no_window(browser, windows, text, message):
    fresh(browser, windows.with_suffix(".html"))
    file = windows.with_name("labels.csv")
    file.write_bytes(text.encode("latin-1"))
    assert message in load(browser, file)
    assert state_of(browser)["labels"] == [None] * 4
    with pytest.raises(ValueError, match=str(file)):
        labels_of(read_embeddings(windows), file)


def test_saved_labels_are_there_after_a_reload_of_a_page_made_with_others(browser, tmp_path, downloads):
    table, file = write_vectors(tmp_path / "t.parquet", [f"{tmp_path}/{n}.wav" for n in range(3)]), tmp_path / "l.csv"
    file.write_text("path,label\n0.wav,first\n")
    make_page(table, "--labels", str(file))
    fresh(browser, table.with_suffix(".html"))
    browser.execute_script("select(1, false); assign('second')")
    saved_labels(browser, downloads)
    open_page(browser, table.with_suffix(".html"))
    assert state_of(browser)["labels"] == ["first", "second", None]


def test_clips_of_the_same_names_in_another_folder_have_labels_of_their_own(browser, tmp_path, monkeypatch):
    tables = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        tables.append(write_vectors(folder / "t.parquet", ["1.wav", "2.wav", "3.wav"]))
        make_page(tables[-1])
    fresh(browser, tables[0].with_suffix(".html"))
    browser.execute_script("select(0, false); assign('x')")
    open_page(browser, tables[1].with_suffix(".html"))
    assert state_of(browser)["labels"] == [None, None, None]


def test_a_folder_named_in_other_bytes_is_saved_and_linked_as_it_is(browser, tmp_path, downloads):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    table = write_vectors(tmp_path / "t.parquet", [as_name(f"{folder}/{n}.wav") for n in range(3)])
    page = make_page(table, "--audio", "link")
    assert b'"base":"caf\\\\xe9"' in block(page, "facts")
    fresh(browser, table.with_suffix(".html"))
    assert browser.execute_script("return link(0)") == "caf%e9/0.wav"
    browser.execute_script("select(0, false); assign('x')")
    csv = saved_labels(browser, downloads)
    assert b"/caf\xe9/0.wav,x\n" in csv.read_bytes()
    assert labels_of(read_embeddings(table), csv).values == ["x", None, None]


def test_a_label_called_as_clips_without_one_is_a_class_like_others(browser, windows):
    fresh(browser, windows.with_suffix(".html"))
    browser.execute_script("showView('label'); select(1, false); assign('no label'); select(0, false); assign('z')")
    groups = "return state.view.groups.map(({title, rows, shown}) => [title, rows, shown])"
    browser.execute_script("show((_, i) => i > 0); select(0, false); assign('y')")
    assert browser.execute_script(groups) == [["no label", [2, 3], False], ["no label", [1], True], ["y", [0], True]]

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from map_pages import alone, block, click_point, errors, make_page, open_page, visible_points, wait_for
from map_tables import write_table

from maeast_upstream.visualization.map.page import short_names

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "data"
HOSTILE = ["<script>window.hacked=1</script>.wav", "</script><img src=x onerror=window.hacked=1>.wav", "'&<!--%.wav"]
CLASSES = ["</script><script>window.hacked=1", "<b>1</b>", "<img src=x onerror=window.hacked=1>"]


class Tags(HTMLParser):
    """Every tag of a page, and the attributes that name other files."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.references = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Nine clips in three classes, all with names that would be markup."""
    paths = [f"{tmp_path}/{number}/{name}" for number in range(3) for name in HOSTILE]
    rows = [f"{path},{label}\n" for path, label in zip(paths, np.repeat(CLASSES, 3), strict=True)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(rows))
    vectors = np.random.default_rng(0).normal(size=(9, 5))
    return write_table(tmp_path / "embeddings.parquet", paths, vectors, start_ms=[0.0] * 9, end_ms=[1000.0] * 9)


def make_hostile(table: Path) -> str:
    return make_page(table, "--labels", str(table.with_name("labels.csv")))


def test_the_page_holds_every_row_and_where_it_lies(hostile):
    page = make_hostile(hostile)
    facts = json.loads(block(page, "facts"))
    assert facts["title"] == "embeddings.parquet"
    assert facts["method"] == "t-SNE"
    assert facts["axes"] == ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]
    assert facts["base"] == "."
    assert facts["folder"] == str(hostile.parent)
    assert len(json.loads(block(page, "names"))) == 9
    points = np.frombuffer(block(page, "points"), "<f4").reshape(9, 2)
    assert np.isfinite(points).all()
    assert np.frombuffer(block(page, "neighbours"), "<u4").reshape(9, 8).max() < 9
    assert np.frombuffer(block(page, "class-of-label"), "<u4").tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_names_that_would_be_markup_stay_text(hostile):
    page = make_hostile(hostile)
    assert json.loads(block(page, "names"))[0] == "0/<script>window.hacked=1</script>.wav"
    (labels,) = (c["classes"] for c in json.loads(block(page, "facts"))["colourings"] if c["kind"] == "label")
    assert labels == CLASSES
    assert "window.hacked" not in page
    hostile.rename(hostile.with_name("<img src=x>.parquet"))
    again = make_hostile(hostile.with_name("<img src=x>.parquet"))
    assert Tags(again).tags == Tags(page).tags


def test_the_page_names_no_other_file_and_its_policy_forbids_the_network(hostile):
    page = make_hostile(hostile)
    assert Tags(page).references == ["data:,"]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'unsafe-eval' 'sha256-")
    assert "connect-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_the_same_table_gives_the_same_page(tmp_path):
    clips = sorted((DATA / "audio").glob("*.opus"))[:4]
    table = write_table(tmp_path / "e.parquet", clips, np.random.default_rng(0).normal(size=(4, 5)))
    page = make_page(table)
    assert page.count('<script type="audio/ogg"') == 4
    assert make_page(table) == page


def test_a_page_replaces_an_older_one_only_when_it_is_whole(hostile, monkeypatch):
    page = make_hostile(hostile)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("maeast_upstream.visualization.map.page._blocks", fail)
    with pytest.raises(OSError, match="disk full"):
        make_hostile(hostile)
    assert hostile.with_suffix(".html").read_text() == page
    assert len(list(hostile.parent.iterdir())) == 3


def test_names_are_told_from_the_folder_that_they_have_in_common(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short_names(["x/a/1.wav", f"{tmp_path}/x/b/2.wav"]) == (f"{tmp_path}/x", ["a/1.wav", "b/2.wav"])
    assert short_names(["x/1.wav", "x/1.wav"]) == (f"{tmp_path}/x", ["1.wav", "1.wav"])
    assert short_names(["/1.wav", "/x/2.wav"]) == ("/", ["1.wav", "x/2.wav"])
    assert short_names(["s3://bucket/1.wav", "x/1.wav"]) == (None, ["s3://bucket/1.wav", f"{tmp_path}/x/1.wav"])


# --- in a browser ---


def test_a_click_plays_the_clip_shows_its_spectrogram_and_lists_its_neighbours(browser, clips_page):
    open_page(browser, clips_page)
    assert visible_points(browser) == 109
    row = alone(browser)
    click_point(browser, row)
    assert wait_for(browser, "document.getElementById('clip').dataset.row") == str(row)
    wait_for(browser, "document.getElementById('audio').currentTime > 0")
    wait_for(browser, "state.length > 0")
    colours = browser.execute_script(
        """const canvas = document.getElementById("spectrogram");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;"""
    )
    assert colours > 100
    near = browser.find_elements("css selector", "#neighbours button")
    assert len(near) == 10
    title = near[0].get_attribute("title")
    near[0].click()
    assert browser.find_element("id", "name").text == title
    assert browser.find_element("id", "message").text == ""
    assert errors(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == []


def test_the_spectrogram_has_the_mels_of_the_front_end(browser, clips_page):
    import torch

    from maeast_upstream.frontend import Fbank

    open_page(browser, clips_page)
    samples = np.random.default_rng(0).normal(scale=0.1, size=2000).astype(np.float32)
    found = browser.execute_script(
        "return Array.from(logMel(Float32Array.from(arguments[0])).values)", samples.tolist()
    )
    expected = Fbank()(torch.from_numpy(samples)[None])[0].T.numpy()
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-2)


def test_the_legend_hides_classes_and_the_search_finds_names(browser, clips_page):
    open_page(browser, clips_page)
    browser.find_element("css selector", "#legend .toggle[title=kick]").click()
    wait_for(browser, "plot.data.some((t) => t.visible === false)")
    assert visible_points(browser) == 109 - 12
    browser.find_element("id", "show-all").click()
    wait_for(browser, "plot.data.every((t) => t.visible !== false)")
    browser.find_element("id", "search").send_keys("snare")
    found = wait_for(browser, "document.querySelectorAll('#results .row').length")
    assert found == 11
    browser.find_element("css selector", "#results .row").click()
    assert "snare" in browser.find_element("id", "name").text
    assert errors(browser) == []


def test_names_that_would_be_markup_are_shown_as_they_are(browser, hostile):
    make_hostile(hostile)
    open_page(browser, hostile.with_suffix(".html"))
    browser.execute_script("select(1)")
    assert browser.find_element("id", "name").text == "0/</script><img src=x onerror=window.hacked=1>.wav"
    assert [label.text for label in browser.find_elements("css selector", "#legend .toggle")] == CLASSES
    assert browser.execute_script("return window.hacked") is None
    assert "No sound: " in browser.find_element("id", "message").text
    assert errors(browser) == []


def test_a_linked_clip_is_played_from_disk_and_the_missing_spectrogram_explained(browser, tmp_path):
    folder = tmp_path / "50% & #1?"
    folder.mkdir()
    clips = [shutil.copy(clip, folder) for clip in sorted((DATA / "audio").glob("zero*.opus"))]
    table = write_table(tmp_path / "e.parquet", clips, np.random.default_rng(0).normal(size=(len(clips), 5)))
    make_page(table, "--audio", "link")
    open_page(browser, table.with_suffix(".html"))
    browser.find_element("id", "search").send_keys(Path(clips[2]).name)
    wait_for(browser, "document.querySelectorAll('#results .row').length === 1")
    browser.find_element("css selector", "#results .row").click()
    wait_for(browser, "document.getElementById('audio').currentTime > 0")
    assert "a page opened from disk" in browser.find_element("id", "message").text
    assert not browser.find_element("id", "spectrogram").is_displayed()


@pytest.mark.parametrize("audio", ["embed", "link"])
def test_only_the_segment_of_a_file_is_played(browser, tmp_path, audio):
    clip, starts = (DATA / "audio" / "long_drums.opus", np.array([500.0, 1500.0, 2500.0, 3500.0]))
    columns = {"segment": range(4), "start_ms": starts, "end_ms": starts + 600}
    table = write_table(tmp_path / "e.parquet", [clip] * 4, np.random.default_rng(0).normal(size=(4, 5)), **columns)
    make_page(table, "--audio", audio)
    open_page(browser, table.with_suffix(".html"))
    browser.execute_script("select(1)")
    assert browser.find_element("id", "segment").text == "at 1.50 \N{EN DASH} 2.10 s of its file"
    browser.find_element("id", "play").click()  # before a first click on a page, a browser plays nothing
    wait_for(browser, "document.getElementById('audio').currentTime > state.start + 0.5")
    wait_for(browser, "document.getElementById('audio').paused")
    assert browser.execute_script("return [state.start, state.length]") == pytest.approx([1.5 * (audio == "link"), 0.6])
    assert browser.execute_script("return document.getElementById('audio').currentTime - state.start") < 0.9


@pytest.mark.parametrize("rows", [10_000, pytest.param(100_000, marks=pytest.mark.stress)])
def test_a_large_map_is_drawn_and_answers_clicks(browser, tmp_path, rows):
    rng = np.random.default_rng(0)
    paths = [f"class{number % 30}/{number:06}.flac" for number in range(rows)]
    table = write_table(tmp_path / "e.parquet", paths, rng.normal(size=(rows, 16)))
    make_page(table)
    assert table.with_suffix(".html").stat().st_size < 5.5e6 + 120 * rows
    open_page(browser, table.with_suffix(".html"))
    assert visible_points(browser) == rows
    outermost = browser.execute_script(
        """const far = (row) => Math.hypot(data.points[2 * row], data.points[2 * row + 1]);
        return data.names.reduce((best, _, row) => (far(row) > far(best) ? row : best), 0);"""
    )
    click_point(browser, outermost)
    assert wait_for(browser, "document.getElementById('clip').dataset.row") == str(outermost)
    assert len(browser.find_elements("css selector", "#neighbours button")) == 10

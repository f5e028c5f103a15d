"""Clips are selected, labelled and saved on a map page, in a browser."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from map_pages import alone, errors, fresh, make_page, open_page, point_of, saved_labels, state_of, wait_for
from map_tables import write_predictions, write_table

from maeast_upstream import cli
from maeast_upstream.data.embeddings import read_embeddings
from maeast_upstream.data.labelled_segments import read_labelled_segments
from maeast_upstream.visualization.map.labels import labels_of

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "data"
SHIFT, CONTROL, ESCAPE, ENTER = "\ue008", "\ue009", "\ue00c", "\ue007"
LEFT, RIGHT, UP, DOWN, DELETE, F2 = "\ue012", "\ue014", "\ue013", "\ue015", "\ue017", "\ue032"


@pytest.fixture(autouse=True)
def _leave_quietly(browser):
    yield
    browser.execute_script("unsaved = false")  # or the next page would begin with a warning of this one


def keys(browser, *typed: str, held: str = "") -> None:
    """Type keys where the focus is, while another is held."""
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(browser, duration=0)
    for key in held:
        actions.key_down(key)
    for key in typed:
        actions.send_keys(key)
    for key in held:
        actions.key_up(key)
    actions.perform()


def drag(browser, points, held: str = "") -> None:
    """Press the mouse at the first point, move it over the others, and release it."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    if held:
        ActionChains(browser, duration=0).key_down(held).perform()
    mouse = ActionBuilder(browser, duration=10)
    mouse.pointer_action.move_to_location(*points[0]).pointer_down()
    for point in points[1:]:
        mouse.pointer_action.move_to_location(*point)
    mouse.pointer_action.pointer_up()
    mouse.perform()
    if held:
        ActionChains(browser, duration=0).key_up(held).perform()


@pytest.fixture(scope="module")
def bare_page(tmp_path_factory):
    """A page of 12 clips of 3 classes without labels, in a folder with blanks in its name."""
    folder = tmp_path_factory.mktemp("my clips")
    originals = [clip for name in ("kick", "zero", "tone1") for clip in sorted((DATA / "audio").glob(f"{name}-*"))[:4]]
    clips = [shutil.copy(clip, folder) for clip in originals]
    rng = np.random.default_rng(0)
    vectors = 6 * np.repeat(rng.normal(size=(3, 20)), 4, axis=0) + rng.normal(size=(12, 20))
    table = write_table(folder / "clips.parquet", clips, vectors)
    make_page(table)
    return table.with_suffix(".html")


def left_half(browser) -> tuple[list[list[int]], list[int]]:
    """A lasso in the middle of the map around some of the points, and the rows in it."""
    middle = browser.execute_script(
        "const b = plot.getBoundingClientRect(); return [b.left, b.top, b.left + b.width / 2, b.bottom]"
    )
    left, top, right, bottom = map(int, middle)
    rows = [row for row in range(12) if point_of(browser, row)[0] < right]
    return [[left + 6, top + 6], [right, top + 6], [right, bottom - 6], [left + 6, bottom - 6]], rows


@pytest.mark.parametrize("way", ["shift", "button"])
def test_a_lasso_selects_what_lies_in_it_and_the_map_stays(browser, bare_page, way):
    fresh(browser, bare_page)
    before, (corners, rows) = state_of(browser)["range"], left_half(browser)
    assert 0 < len(rows) < 12
    if way == "button":
        browser.find_element("id", "lasso").click()
    drag(browser, corners, SHIFT if way == "shift" else "")
    found = state_of(browser)
    assert found["selection"] == rows
    assert found["range"] == before
    if way == "button":
        drag(browser, [corners[0], [corners[0][0] + 40, corners[0][1]], [corners[0][0], corners[0][1] + 5]])
        assert state_of(browser)["selection"] == []
        keys(browser, ESCAPE)
        x, y = corners[0]
        drag(browser, [(x + 100, y + 100), (x + 150, y + 100), (x + 200, y + 120)])  # moves the map again
        assert state_of(browser)["selection"] == []
        assert state_of(browser)["range"] != before
    assert errors(browser) == []


def test_shift_and_control_add_a_clip_to_the_selection_and_remove_it(browser, bare_page):
    fresh(browser, bare_page)
    first, second = alone(browser), 0
    second = next(row for row in range(12) if row != first)
    browser.execute_script("select(arguments[0])", second)
    for key, selection in ((SHIFT, sorted((first, second))), (CONTROL, [second])):
        drag(browser, [point_of(browser, first)], key)
        assert state_of(browser)["selection"] == selection


def test_buttons_that_select_what_was_found_and_show_one_class_can_be_reached(browser, bare_page):
    fresh(browser, bare_page)
    browser.find_element("id", "search").send_keys("kick")
    wait_for(browser, "state.found.length === 4")
    browser.find_element("css selector", "#results .only").click()
    assert len(state_of(browser)["selection"]) == 4
    browser.execute_script("document.querySelector('#legend .toggle').focus()")
    keys(browser, "\ue004")  # the tabulator
    assert browser.execute_script("return document.activeElement.textContent") == "only"


def test_typed_labels_are_saved_as_a_csv_that_other_commands_read(browser, bare_page, downloads):
    fresh(browser, bare_page)
    corners, rows = left_half(browser)
    drag(browser, corners, SHIFT)
    browser.find_element("id", "label").send_keys('  ding, "dong" ', ENTER)
    found = state_of(browser)
    assert [row for row, label in enumerate(found["labels"]) if label == 'ding, "dong"'] == rows
    assert (found["unsaved"], found["focus"]) == (True, "plot")
    leave = "const event = new Event('beforeunload', {cancelable: true}); dispatchEvent(event)"
    assert browser.execute_script(f"{leave}; return event.defaultPrevented")
    csv = saved_labels(browser, downloads)
    table = read_embeddings(bare_page.with_suffix(".parquet"))
    assert [(item.path, item.label) for item in read_labelled_segments(csv)] == [
        (str(Path(table.paths[row]).resolve()), 'ding, "dong"') for row in rows
    ]
    assert not state_of(browser)["unsaved"]
    assert errors(browser) == []


def test_the_keyboard_moves_plays_labels_and_undoes(browser, bare_page):
    fresh(browser, bare_page)
    keys(browser, RIGHT)
    start = state_of(browser)["selected"]
    assert start is not None
    seen, key = {start}, {RIGHT: LEFT, LEFT: UP, UP: DOWN, DOWN: RIGHT}
    direction = RIGHT
    for _ in range(8):
        before = state_of(browser)["selected"]
        keys(browser, direction)
        row = state_of(browser)["selected"]
        (x0, y0), (x1, y1) = point_of(browser, before), point_of(browser, row)
        if row == before:  # the edge of the map
            direction = key[direction]
            continue
        ahead = {RIGHT: x1 - x0, LEFT: x0 - x1, UP: y0 - y1, DOWN: y1 - y0}[direction]
        assert ahead > -1  # the points of clicks are whole pixels
        seen.add(row)
    assert len(seen) > 3
    assert browser.execute_script("return document.getElementById('audio').paused")
    keys(browser, ENTER)
    wait_for(browser, "document.getElementById('audio').currentTime > 0")
    keys(browser, LEFT, UP, held=SHIFT)
    assert len(state_of(browser)["selection"]) > 1
    keys(browser, "g")
    assert state_of(browser)["focus"] == "label"
    keys(browser, "ong", ENTER)
    chosen = state_of(browser)["selection"]
    assert [row for row, label in enumerate(state_of(browser)["labels"]) if label == "gong"] == chosen
    other = next(row for row in range(12) if row not in chosen)
    browser.execute_script("select(arguments[0], false)", other)
    keys(browser, "g")
    assert state_of(browser)["labels"][other] == "gong"
    keys(browser, "z", held=CONTROL)
    assert state_of(browser)["labels"][other] is None
    browser.execute_script("select(arguments[0], false)", chosen[0])
    keys(browser, DELETE)
    assert state_of(browser)["labels"][chosen[0]] is None
    keys(browser, "?")
    assert browser.find_element("id", "help").is_displayed()
    keys(browser, ESCAPE)
    assert not browser.find_element("id", "help").is_displayed()
    keys(browser, ESCAPE)
    assert state_of(browser)["selection"] == []
    keys(browser, "a", held=CONTROL)
    assert len(state_of(browser)["selection"]) == 12
    keys(browser, F2)
    assert state_of(browser)["focus"] == "label"
    assert errors(browser) == []


def test_labels_survive_a_reload_until_a_newer_labels_csv_is_given(browser, bare_page, downloads):
    fresh(browser, bare_page)
    browser.execute_script("select(3, false); assign('kick')")
    open_page(browser, bare_page)
    assert (state_of(browser)["labels"][3], state_of(browser)["unsaved"]) == ("kick", True)
    assert "not saved" in state_of(browser)["status"]
    csv = saved_labels(browser, downloads)
    table = bare_page.with_suffix(".parquet")
    csv.write_text(csv.read_text().replace("kick\n", "snare\n"))
    make_page(table, "--labels", str(csv))
    try:
        open_page(browser, bare_page)
        assert state_of(browser)["labels"][3] == "snare"
        assert state_of(browser)["view"] == "label"
    finally:
        make_page(table)


def test_a_labels_csv_is_read_on_the_page(browser, bare_page, tmp_path):
    fresh(browser, bare_page)
    paths = read_embeddings(bare_page.with_suffix(".parquet")).paths
    csv = tmp_path / "l.csv"
    rows = [
        f"{paths[0]};'=one",
        f'../{Path(paths[1]).parent.name}/{Path(paths[1]).name};"two; ""2"""',
        f"{Path(paths[2]).name};<b>three</b>",
        "elsewhere.wav;four",
        f"{paths[3]};",
    ]
    csv.write_text("\r\n".join(["Path;Label", *rows]), encoding="utf-8-sig")
    browser.find_element("id", "load").send_keys(str(csv))
    wait_for(browser, "labelled.size > 0")
    found = state_of(browser)
    assert found["labels"][:4] == ["=one", 'two; "2"', "<b>three</b>", None]
    assert "2 rows without a label or not on this map left out" in found["status"]
    refused = {"path,class\na,b\n": "expected columns path and label", "path,label\nx.wav,a\n": "none of its 1 row"}
    for content, message in refused.items():
        csv.write_text(content)
        browser.find_element("id", "load").send_keys(str(csv))
        wait_for(browser, f"document.getElementById('status').textContent.includes({json.dumps(message)})")
    assert browser.execute_script("return window.hacked") is None
    assert errors(browser) == []


def test_labels_of_windows_have_their_times_and_come_back(browser, tmp_path, downloads):
    clip, starts = DATA / "audio" / "long_drums.opus", np.array([0.0, 333.3125, 1500.0, 2500.0])
    columns = {"segment": [0] * 4, "start_ms": starts, "end_ms": starts + 600}
    table = write_table(tmp_path / "e.parquet", [clip] * 4, np.random.default_rng(0).normal(size=(4, 5)), **columns)
    make_page(table)
    fresh(browser, table.with_suffix(".html"))
    browser.execute_script("select(1, false); assign('a'); select(3, false); assign('b')")
    csv = saved_labels(browser, downloads)
    assert [(item.start_ms, item.end_ms, item.label) for item in read_labelled_segments(csv)] == [
        (333.3125, 933.3125, "a"),
        (2500.0, 3100.0, "b"),
    ]
    assert labels_of(read_embeddings(table), csv).values == [None, "a", None, "b"]
    browser.execute_script("localStorage.clear()")
    open_page(browser, table.with_suffix(".html"))
    browser.find_element("id", "load").send_keys(str(csv))
    wait_for(browser, "labelled.size === 2")
    assert state_of(browser)["labels"] == [None, "a", None, "b"]


def test_typed_labels_lose_control_characters_and_names_in_other_bytes_keep_theirs(browser, tmp_path, downloads):
    names = [f"{tmp_path}/caf\\xe9 {number}.wav" for number in range(3)]
    table = write_table(tmp_path / "e.parquet", names, np.random.default_rng(0).normal(size=(3, 5)))
    make_page(table)
    fresh(browser, table.with_suffix(".html"))
    browser.execute_script("select(0, false); assign('a\\u0007\\u202eb\\n c\\u00e9')")
    browser.execute_script("select(1, false); assign(' \\u0000 ')")
    assert state_of(browser)["labels"] == ["a b cé", None, None]
    csv = saved_labels(browser, downloads)
    assert csv.read_bytes().endswith(b"/caf\xe9 0.wav,a b c\xc3\xa9\n")
    assert labels_of(read_embeddings(table), csv).values == ["a b cé", None, None]
    browser.execute_script("localStorage.clear()")
    open_page(browser, table.with_suffix(".html"))
    browser.find_element("id", "load").send_keys(str(csv))
    wait_for(browser, "labelled.size === 1")
    assert state_of(browser)["labels"][0] == "a b cé"


@pytest.fixture
def predicted(tmp_path):
    """A page of 6 clips, of which the last has no prediction."""
    names = [f"{tmp_path}/{number}.wav" for number in range(6)]
    table = write_table(tmp_path / "e.parquet", names, np.random.default_rng(0).normal(size=(6, 5)))
    labels, margins = ["<b>a</b>", "b", "b", "b", "c"], [0.9, 0.1, 0.4, 1, 0.05]
    file = write_predictions(tmp_path / "f.parquet", names[:5], labels, [0.95, 0.5, 0.7, 1, 0.0], margins)
    make_page(table, "--predictions", str(file), "--title", "<i>Clips</i>")
    return table.with_suffix(".html")


def test_predictions_colour_the_map_and_order_the_uncertain_clips(browser, predicted):
    fresh(browser, predicted)
    assert browser.find_element("id", "title").text == "<i>Clips</i>"
    legend = "[...document.querySelectorAll('#legend .text')].map((text) => text.textContent)"
    assert browser.execute_script(f"return {legend}") == ["no prediction", "<b>a</b>", "b", "c"]
    listed = "return [...document.querySelectorAll('#uncertain button')].map((button) => Number(button.dataset.row))"
    assert browser.execute_script(listed) == [4, 1, 2, 0, 3]
    browser.find_element("id", "colour-by").send_keys("conf")
    wait_for(browser, "state.view.kind === 'confidence'")
    tenths = ["0.9 - 1.0", "0.7 - 0.8", "0.5 - 0.6", "0.0 - 0.1"]
    assert browser.execute_script(f"return {legend}") == [
        "no prediction",
        *(tenth.replace("-", "\N{EN DASH}") for tenth in tenths),
    ]
    browser.execute_script("plot.focus()")
    keys(browser, ".")
    assert state_of(browser)["selected"] == 4
    keys(browser, "c")
    found = state_of(browser)
    assert (found["labels"][4], found["selected"]) == ("c", 1)  # the next one
    assert browser.execute_script(listed) == [1, 2, 0, 3]
    keys(browser, ".", ".", ",")
    assert state_of(browser)["selected"] == 2
    keys(browser, ",", ",")
    assert state_of(browser)["selected"] == 1
    assert "No other clip" in state_of(browser)["status"]
    assert errors(browser) == []


def test_clusters_and_folders_are_colours_too(browser, tmp_path):
    names = [f"{tmp_path}/{folder}/{number}.wav" for folder in "xy" for number in range(6)]
    clusters = [-1, 10, 9] * 4
    table = write_table(
        tmp_path / "e.parquet", names, np.random.default_rng(0).normal(size=(12, 5)), cluster=np.array(clusters)
    )
    make_page(table)
    fresh(browser, table.with_suffix(".html"))
    legend = "return [...document.querySelectorAll('#legend .text')].map((text) => text.textContent)"
    assert browser.execute_script(legend) == ["noise", "cluster 9", "cluster 10"]
    browser.execute_script("showView('folder')")
    assert browser.execute_script(legend) == ["x", "y"]


@pytest.mark.parametrize("labels", [3000])
def test_thousands_of_labels_leave_the_page_usable(browser, tmp_path, labels):
    names = [f"{tmp_path}/{number}.wav" for number in range(labels)]
    (tmp_path / "l.csv").write_text("path,label\n" + "".join(f"{name},label {i}\n" for i, name in enumerate(names)))
    table = write_table(tmp_path / "e.parquet", names, np.random.default_rng(0).normal(size=(labels, 3)))
    make_page(table, "--labels", str(tmp_path / "l.csv"), "--method", "pca", "--audio", "none")
    fresh(browser, table.with_suffix(".html"))
    assert browser.execute_script("return document.querySelectorAll('#legend li').length") == 201
    assert browser.execute_script("return document.querySelectorAll('#recent li').length") <= 36
    browser.execute_script("selectRows(shownRows()); assign('new')")
    assert set(state_of(browser)["labels"]) == {"new"}
    assert browser.execute_script("return document.querySelectorAll('#legend li').length") == 1


def test_a_phone_shows_everything_in_one_column(browser, predicted):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        fresh(browser, predicted)
        browser.execute_script("select(1, false); assign('a_label_without_blanks_'.repeat(8))")
        assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
        for name in ("plot", "lasso", "label", "recent", "save", "load", "colour-by", "legend", "uncertain"):
            box = browser.execute_script("return document.getElementById(arguments[0]).getBoundingClientRect()", name)
            assert (name, box["left"] >= 0, box["right"] <= 360) == (name, True, True)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_finger_draws_the_lasso_and_moves_the_map(browser, bare_page):
    fresh(browser, bare_page)
    corners, rows = left_half(browser)
    browser.find_element("id", "lasso").click()
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        kinds = ["touchStart", *["touchMove"] * (len(corners) - 1)]
        for kind, (x, y) in zip(kinds, corners, strict=True):
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert state_of(browser)["selection"] == rows
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_embed_map_label_fit_predict_and_map_again(browser, tmp_path, downloads):
    """The loop by which a collection is labelled, on clips of four classes in one folder."""
    classes, folder = ("kick", "snare", "tone1", "tone3"), tmp_path / "clips"
    folder.mkdir()
    for name in classes:
        for clip in sorted((DATA / "audio").glob(f"{name}-*"))[:8]:
            shutil.copy(clip, folder)
    table, model, found, page = (tmp_path / name for name in ("t.parquet", "model", "found.parquet", "map.html"))
    assert cli.main(["embed", str(folder), "-o", str(table)]) == 0
    assert cli.main(["map", str(table), "-o", str(page)]) == 0
    fresh(browser, page)
    names = browser.execute_script("return data.names")
    for name in classes:
        rows = [row for row, clip in enumerate(names) if clip.startswith(name)][:4]
        browser.execute_script("selectRows(arguments[0])", rows)
        browser.find_element("id", "label").send_keys(name, ENTER)
    labels = shutil.copy(saved_labels(browser, downloads), tmp_path)
    assert cli.main(["fit", str(labels), "-t", str(table), "-o", str(model)]) == 0
    assert cli.main(["predict", str(table), "-m", str(model), "-o", str(found)]) == 0
    assert cli.main(["map", str(table), "-o", str(page), "--labels", str(labels), "--predictions", str(found)]) == 0
    open_page(browser, page)
    predicted = browser.execute_script("return data.names.map((_, row) => valueOf('prediction', row))")
    right = sum(label == name.split("-")[0] for label, name in zip(predicted, names, strict=True))
    assert right >= 0.9 * len(names)
    queue = browser.execute_script(
        "return [...document.querySelectorAll('#uncertain button')].map((button) => Number(button.dataset.row))"
    )
    margins = browser.execute_script("return [...data.margin]")
    assert sorted(queue) == [row for row, label in enumerate(state_of(browser)["labels"]) if label is None]
    assert [margins[row] for row in queue] == sorted(margins[row] for row in queue)
    assert len(queue) == len(names) - 16
    assert errors(browser) == []

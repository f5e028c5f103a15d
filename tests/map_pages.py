"""Map pages for tests: made, read, and opened in a browser."""

import base64
import gzip
import re
import time
from pathlib import Path

from maeast_upstream.commands import map as map_command


def block(page: str, name: str) -> bytes:
    (found,) = re.findall(rf'<script type="application/gzip" id="data-{name}">([^<]*)</script>', page)
    return gzip.decompress(base64.b64decode(found))


def make_page(table: Path, *options: str) -> str:
    out = table.with_suffix(".html")
    assert map_command.main([str(table), "-o", str(out), *options]) == 0
    return out.read_text()


def open_page(browser, path: Path) -> None:
    browser.get(path.resolve().as_uri())
    wait_for(browser, "document.body.dataset.state")
    assert browser.execute_script("return document.body.dataset.state") == "ready"


def wait_for(browser, expression: str):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, 0.05).until(lambda window: window.execute_script(f"return {expression}"))


def point_of(browser, row: int) -> tuple[int, int]:
    """Where the map shows a row, in whole pixels of the window."""
    x, y = browser.execute_script(
        """const [row] = arguments, box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
        return [box.left + xaxis._offset + xaxis.d2p(data.points[2 * row]),
                box.top + yaxis._offset + yaxis.d2p(data.points[2 * row + 1])];""",
        row,
    )
    return round(x), round(y)


def click_point(browser, row: int) -> None:
    """With the mouse, where the map shows it."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    x, y = point_of(browser, row)
    mouse = ActionBuilder(browser)
    mouse.pointer_action.move_to_location(x - 30, y - 30).pause(0.1)
    mouse.pointer_action.move_to_location(x, y).pause(0.2).click()
    mouse.perform()


def alone(browser) -> int:
    """The row that lies farthest from its nearest fellow, so that a click hits it and no other."""
    return browser.execute_script(
        """const at = (row) => [data.points[2 * row], data.points[2 * row + 1]];
        const rows = [...data.names.keys()];
        const space = rows.map((a) => Math.min(...rows.filter((b) => b !== a)
            .map((b) => Math.hypot(at(a)[0] - at(b)[0], at(a)[1] - at(b)[1]))));
        return space.indexOf(Math.max(...space));"""
    )


def visible_points(browser) -> int:
    counted = "plot.data.filter((t) => t.visible !== false).reduce((sum, t) => sum + t.x.length, 0)"
    return browser.execute_script(f"return {counted}")


def errors(browser) -> list[str]:
    """What the console has, but for the driver's own remark on how slow WebGL in software is."""
    return [entry["message"] for entry in browser.get_log("browser") if "GL Driver Message" not in entry["message"]]


def state_of(browser) -> dict:
    return browser.execute_script(
        """return {selected: state.selected, selection: [...selection].sort((a, b) => a - b), labels: data.labelOf,
        focus: document.activeElement.id, unsaved, status: document.getElementById("status").textContent,
        view: state.view.kind,
        range: plot._fullLayout.xaxis.range}"""
    )


def fresh(browser, page: Path) -> None:
    """Open a page for which the browser has kept nothing."""
    open_page(browser, page)
    browser.execute_script("unsaved = false; localStorage.clear()")
    open_page(browser, page)
    errors(browser)  # of the pages before


def saved_labels(browser, downloads: Path) -> Path:
    """Save labels.csv and return it."""
    for old in downloads.glob("labels*"):
        old.unlink()
    browser.find_element("id", "save").click()
    deadline = time.monotonic() + 60
    while not (downloads / "labels.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return downloads / "labels.csv"

"""A browser, and the page of the clips in tests/data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from map_pages import make_page
from map_tables import write_table

from maeast_upstream.data.labels import read_rows

DATA = Path(__file__).parents[3] / "data"


@pytest.fixture(scope="session")
def downloads(tmp_path_factory) -> Path:
    """The folder in which the browser saves files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def browser(tmp_path_factory, downloads):
    """Headless Chromium, with WebGL in software."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no browser: install Debian's chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    flags = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader
        --window-size=1440,900"""
    for flag in [*flags.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    window.set_script_timeout(60)
    yield window
    window.quit()


@pytest.fixture(scope="session")
def clips_page(tmp_path_factory):
    """The page of the clips in tests/data, each class around a vector of its own."""
    table = tmp_path_factory.mktemp("clips") / "clips.parquet"
    clips = list(read_rows(DATA / "labels.csv", ["label"]))
    rng = np.random.default_rng(0)
    centres = {clip.name.split("-")[0]: rng.normal(size=40) for clip in clips}
    write_table(table, clips, np.stack([2 * centres[clip.name.split("-")[0]] + rng.normal(size=40) for clip in clips]))
    make_page(table, "--labels", str(DATA / "labels.csv"))
    return table.with_suffix(".html")

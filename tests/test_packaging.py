"""The wheel is whole, light to import and says one version."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import maeast_upstream

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
HEAVY = {
    "s3prl",
    "sklearn",
    "matplotlib",
    "pyarrow",
    "transformers",
    "huggingface_hub",
    "torchaudio",
    "jsonargparse",
    "openvino",
    "onnx",
    "onnxruntime",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what git tracks, so that nothing lying about helps."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listing.stdout.decode().split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        out,
        source,
    ]
    subprocess.run(command, check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def clean_python(wheel, tmp_path_factory):
    """A venv that has the wheel, and sees this environment's libraries but not this checkout."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python*/site-packages"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(command, check=True)
    (site / "libraries.pth").write_text(f"{_link_libraries(folder / 'libraries')}\n")
    return python


def _link_libraries(links):
    """Link to this environment's libraries, without the editable install of this checkout."""
    links.mkdir()
    for folder in [Path(path) for path in sys.path if path.endswith("site-packages")]:
        for path in folder.iterdir():
            if "maeast" not in path.name and path.suffix != ".pth" and not (links / path.name).exists():
                (links / path.name).symlink_to(path)
    return links


def test_the_wheel_is_used_from_another_folder(clean_python, tmp_path):
    code = """
import importlib.resources, json, torch, maeast_upstream
configs = sorted(p.name for p in importlib.resources.files("maeast_upstream.configs").iterdir() if p.suffix == ".yaml")
vector = maeast_upstream.load_model().embed([0.1 * torch.randn(16000)])
print(json.dumps([maeast_upstream.__file__, configs, list(vector.shape)]))
"""
    done = subprocess.run(
        [clean_python, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    where, configs, shape = json.loads(done.stdout)
    assert str(ROOT) not in where
    assert configs == sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert shape[0] == 1
    clip = ROOT / "tests" / "data" / "audio" / "long_drums.opus"
    maeast = [
        clean_python.parent / "maeast",
        "embed",
        clip,
        "-o",
        tmp_path / "e.parquet",
    ]
    done = subprocess.run(maeast, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "1 file, 1 row" in done.stdout


def test_the_bundled_checkpoint_is_at_most_12_mb():
    folder = ROOT / "maeast_upstream" / "assets" / "tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000


def test_importing_loads_nothing_heavy():
    code = "import sys, maeast_upstream.engines.selection, maeast_upstream.cli, pretrain; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


def test_importing_costs_at_most_0_3_s_more_than_torch():
    code = "import time, torch; t = time.process_time(); import maeast_upstream; print(time.process_time() - t)"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=env,
        )
        for _ in range(4)
    ]
    assert statistics.median(float(done.stdout) for done in runs[1:]) <= 0.3


def test_one_version_everywhere(wheel):
    assert wheel.name.startswith(f"maeast_upstream-{maeast_upstream.__version__}-")
    assert f"\n## [{maeast_upstream.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_wheel_has_the_page_of_maeast_map(wheel):
    page = {
        f"maeast_upstream/visualization/map/assets/{path.name}"
        for path in (ROOT / "maeast_upstream/visualization/map/assets").iterdir()
    }
    assert page <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_the_recipes_of_the_published_runs(wheel):
    names = {path.name for path in (ROOT / "configs" / "published").glob("*.yaml")}
    assert len(names) == 3
    assert {f"maeast_upstream/configs/published/{name}" for name in names} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_the_configs_of_s3prl_s_tasks_and_the_corpus_it_lacks(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"maeast_upstream/configs/superb/{path.name}" for path in (ROOT / "configs" / "superb").glob("*.yaml")}
    assert len(configs) == 12
    assert configs <= names
    assert "maeast_upstream/integrations/s3prl/overlay/corpus/libriphone.py" in names

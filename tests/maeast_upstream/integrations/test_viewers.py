"""Embedding-atlas and Spotlight open tables of embeddings; `make test-viewers` installs them."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from maeast_upstream.cli import main

AUDIO = Path(__file__).parents[2] / "data" / "audio"


@pytest.fixture(params=["float32", "float16"])
def table(request, make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "small")
    options = ["--checkpoint", str(tmp_path / "small"), "--workers", "0", "--engine", "torch", "--window", "1"]
    inputs = [str(path) for path in sorted(AUDIO.glob("*.opus"))[::3]]
    table = tmp_path / "t.parquet"
    assert main(["embed", *inputs, "-o", str(table), "--vectors", request.param, *options]) == 0
    return table


def test_embedding_atlas_projects_the_vectors_of_a_table(table, tmp_path):
    pytest.importorskip("embedding_atlas")
    program = Path(sys.executable).with_name("embedding-atlas")
    command = [program, table, "--vector", "vector", "--export-application", tmp_path / "page"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (data,) = (tmp_path / "page").rglob("*.parquet")
    shown = pq.read_table(data)
    assert shown["path"].to_pylist() == pq.read_table(table)["path"].to_pylist()
    assert {"projection_x", "projection_y"} <= {name.strip("_") for name in shown.schema.names}
    assert (tmp_path / "page" / "index.html").exists()


def test_spotlight_shows_a_table_with_its_sound(table):
    spotlight = pytest.importorskip("renumics.spotlight")
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(table)
    kinds = {"path": spotlight.Audio, "vector": spotlight.Embedding}
    viewer = spotlight.show(frame, dtype=kinds, no_browser=True, wait=False, port="auto", analyze=False)
    try:
        with urllib.request.urlopen(f"{viewer.url}api/table/?") as answer:
            columns = {column["name"]: column for column in json.load(answer)["columns"]}
    finally:
        viewer.close()
    assert columns["path"]["dtype"]["name"] == "Audio"
    assert columns["vector"]["dtype"]["name"] == "Embedding"
    assert len(columns["vector"]["values"]) == len(frame)

"""Clips for the tests of commands."""

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def folder(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for path in sorted((DATA / "audio").glob("*.opus"))[:6]:
        shutil.copy(path, clips)
    return clips

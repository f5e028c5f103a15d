"""Decoding processes that do what the names of their files say."""

import pytest
from decoding_runs import EVIL_BOOT

from maeast_upstream.decoding import process


@pytest.fixture
def evil(monkeypatch, tmp_path):
    """Such processes; gives their log, lines of process id and file."""
    monkeypatch.setattr(process, "BOOT_CODE", EVIL_BOOT)
    monkeypatch.setenv("EVIL_LOG", str(tmp_path / "log"))
    return tmp_path / "log"

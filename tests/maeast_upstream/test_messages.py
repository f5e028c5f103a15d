"""Wording that messages share."""

import importlib.metadata
import json
import shlex
import types
from pathlib import Path

import pytest

from maeast_upstream import messages
from maeast_upstream.messages import counted, install_extra, shortened

ROOT = Path(__file__).parents[2]


def test_a_number_has_its_noun_in_singular_or_plural():
    assert [counted(number, "file") for number in (0, 1, 2, 2000)] == ["0 files", "1 file", "2 files", "2000 files"]


@pytest.mark.parametrize("length", range(1, 60))
def test_a_long_text_ends_with_a_whole_word(length):
    text = "one two three four five six seven eight nine ten"
    short = shortened(text, length + 16)
    assert len(short) <= length + 16
    assert short == text or (short.endswith(" ...") and f"{text} ".startswith(short.removesuffix("...")))


def test_a_text_without_words_and_one_without_end_are_cut_as_well():
    assert shortened("x" * 10_000_000, 50) == "x" * 46 + " ..."
    assert len(shortened(" " * 10_000_000 + "x", 50)) <= 50
    assert shortened("two\n\n  lines") == "two lines"
    assert shortened(ValueError("reason")) == "reason"


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A function that pretends the package was installed from somewhere, with that record of PEP 610."""

    def pretend(origin):
        monkeypatch.setattr(messages, "__file__", str(tmp_path / "site-packages" / "maeast_upstream" / "messages.py"))
        found = types.SimpleNamespace(read_text=lambda name: origin and json.dumps(origin))
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)

    return pretend


def test_from_a_checkout_the_extra_is_that_of_the_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert install_extra("plot") in ("pip install -e '.[plot]'", "pip install '.[plot]'")
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install_extra("plot"))[-1] == f"{ROOT}[plot]"


def test_elsewhere_it_is_what_the_package_was_installed_from(installed, tmp_path):
    installed(None)
    assert install_extra("plot") == "pip install 'maeast-upstream[plot]'"
    folder = tmp_path / "my checkout"
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert install_extra("plot") == "pip install 'maeast-upstream[plot]'"  # that folder is gone
    folder.mkdir()
    assert install_extra("plot") == f"pip install '{folder}[plot]'"
    installed({"url": folder.as_uri(), "dir_info": {"editable": True}})
    assert install_extra("plot") == f"pip install -e '{folder}[plot]'"
    installed({"url": "https://example.org/x.git", "vcs_info": {"vcs": "git"}})
    assert install_extra("umap") == "pip install 'maeast-upstream[umap] @ git+https://example.org/x.git'"


def test_without_an_installation_the_published_name_is_given(installed, monkeypatch):
    installed(None)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert install_extra("ray") == "pip install 'maeast-upstream[ray]'"

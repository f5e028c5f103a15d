"""The package's public names, imported when they are first used."""

import subprocess
import sys

import pytest

import maeast_upstream


def test_every_public_name_is_there_and_listed():
    for name in maeast_upstream.__all__:
        assert getattr(maeast_upstream, name) is not None
        assert name in dir(maeast_upstream)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'maeast_upstream' has no attribute 'decode'"):
        _ = maeast_upstream.decode


@pytest.mark.slow
def test_torch_is_loaded_with_the_first_name_that_needs_it():
    code = """
import sys, maeast_upstream
assert "torch" not in sys.modules and maeast_upstream.__version__
from maeast_upstream import *
assert "torch" in sys.modules and load_model.__module__ == "maeast_upstream.encoder"
"""
    subprocess.run([sys.executable, "-c", code], check=True)

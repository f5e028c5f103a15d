"""The package's public names, imported when they are first used."""

import os
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


@pytest.mark.slow
def test_a_user_id_without_a_name_loads_a_model_and_trains():
    """As in a container that runs under a number; torch asks for the name when a network or an optimizer is made."""
    code = """
import os
os.getuid = lambda: 12345678
import torch
from maeast_upstream import load_model
model = load_model().requires_grad_(True)
torch.optim.AdamW(model.parameters())
"""
    names = ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

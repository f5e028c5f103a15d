"""Choosing a device."""

import pytest
import torch

from maeast_upstream.device import usable_device


def test_no_name_is_the_cpu():
    assert usable_device(None) == usable_device("cpu") == torch.device("cpu")


def test_auto_is_cuda_only_where_there_is_one():
    assert usable_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
        usable_device(name)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="abacus"):
        usable_device("abacus")


@pytest.mark.parametrize("name", [0, True, b"cpu", "meta", torch.device("meta")])
def test_what_names_no_device_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match="^device must be cpu, cuda, cuda:N or auto, got .*$"):
        usable_device(name)

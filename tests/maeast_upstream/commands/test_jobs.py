"""How a job of `maeast embed` starts: what is done beside the loading of its model, and what is left out."""

import gc

import pytest
import torch

from maeast_upstream import encoder, load_model
from maeast_upstream.cli import main
from maeast_upstream.commands.jobs import weights_unset, without_collection
from maeast_upstream.decoding import process
from maeast_upstream.modules import unset


def test_a_model_that_is_loaded_without_drawing_weights_is_the_same():
    expected = load_model()
    with weights_unset():
        found = load_model()
    assert expected.state_dict().keys() == found.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    for name, value in expected.named_buffers():
        assert torch.equal(dict(found.named_buffers())[name], value)


def test_no_weights_are_drawn(monkeypatch):
    drawn = []
    for name in ("uniform_", "normal_"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *a, f=original, **k: (drawn.append(1), f(*a, **k))[1])
    with weights_unset():
        load_model()
    assert not drawn
    load_model()
    assert drawn
    assert len(unset.DRAWING) == 3


def test_loading_in_python_moves_the_random_state_as_it_always_did(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    load_model(tmp_path / "model")
    found = torch.rand(3)
    make_encoder()  # begins with the same seed and draws each weight
    assert torch.equal(found, torch.rand(3))


def test_a_decoding_process_starts_before_the_model_is_loaded(folder, tmp_path, monkeypatch):
    started, at_load = [], []
    start, load = process._Process.__init__, encoder.load_model
    monkeypatch.setattr(process._Process, "__init__", lambda *a: (started.append(1), start(*a))[1])
    monkeypatch.setattr(encoder, "load_model", lambda *a: (at_load.append(len(started)), load(*a))[1])
    assert main(["embed", str(folder), "-o", str(tmp_path / "e.parquet")]) == 0
    assert at_load == [1]
    assert len(started) == 1


def test_a_process_that_was_started_ends_with_a_job_that_fails(folder, tmp_path, monkeypatch):
    processes = []
    start = process._Process.__init__
    monkeypatch.setattr(process._Process, "__init__", lambda self, *a: (processes.append(self), start(self, *a))[1])
    assert main(["embed", str(folder), "-o", str(tmp_path / "e.parquet"), "--layer", "99"]) == 1
    assert [found.has_ended() for found in processes] == [True]


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_again_after_the_start(collects):
    was = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(ValueError, match="failed"), without_collection():
            raise ValueError("failed" if not gc.isenabled() else "collects")
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was else gc.disable)()

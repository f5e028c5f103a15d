import dataclasses
import logging

import pytest
import torch
import torch._inductor.config
from small import small_config
from torch._dynamo.testing import CompileCounterWithBackend

from pretrain.trainer import Trainer
from pretrain.training.compiling import compile_network, compiler_wanted


@pytest.fixture
def traced(monkeypatch):
    """Have torch.compile trace as it does, and run what it traced without a C++ compiler; counts the pieces."""
    counter = CompileCounterWithBackend("aot_eager")
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **o: compile_module(self, backend=counter, **o))
    monkeypatch.setattr("pretrain.training.compiling.check_compiler", lambda device: None)
    torch.compiler.reset()
    yield counter
    torch.compiler.reset()


NO_DROPOUT = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop"), 0.0)


def without_dropout(recipe, **changes):
    """A recipe whose random numbers do not depend on whether it is compiled."""
    return dataclasses.replace(recipe, model=small_config(depth=3, decoder_depth=2, **NO_DROPOUT), **changes)


def train(recipe, out, **changes):
    recipe = dataclasses.replace(recipe, out=str(out), **changes)
    Trainer(recipe).train()
    return torch.load(sorted((out / "states").glob("*.pt"))[-1], weights_only=True)["objective"]


@pytest.mark.slow
def test_a_compiled_run_saves_the_same_weights_under_the_same_names(recipe, tmp_path, traced):
    recipe = without_dropout(recipe)
    plain, compiled = train(recipe, tmp_path / "plain"), train(recipe, tmp_path / "compiled", compile=True)
    assert traced.frame_count == 3, "encoder, decoder and its last layer, however many layers there are"
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.stress
@pytest.mark.slow
def test_drawn_crop_lengths_and_validation_compile_nothing_anew(recipe, tmp_path, traced):
    data = dataclasses.replace(recipe.data, max_crop_seconds=2.0, validation=recipe.data.packed)
    optim = dataclasses.replace(recipe.optim, steps=24)
    recipe = without_dropout(recipe, data=data, optim=optim, validate_every=5, validate_batches=1, compile=True)
    train(recipe, tmp_path / "run")
    assert traced.frame_count == 3


@pytest.mark.stress
@pytest.mark.slow
def test_a_compiled_run_that_was_stopped_ends_with_the_same_bits(recipe, tmp_path, traced):
    data = dataclasses.replace(recipe.data, max_crop_seconds=2.0)
    recipe = dataclasses.replace(recipe, data=data, compile=True)
    whole = train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "stopped", max_minutes=1e-9)
    torch.compiler.reset()
    resumed = train(recipe, tmp_path / "stopped")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.slow
@torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
def test_auto_trains_without_a_compiler_and_says_so(caplog):
    caplog.set_level(logging.INFO)
    assert not compiler_wanted("auto", torch.device("cpu"), small_config(**NO_DROPOUT))
    assert "trains without compiling: torch cannot compile this on cpu" in caplog.text
    assert "give compile" not in caplog.text


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_auto_compiles_no_dropout_on_a_cpu(monkeypatch, caplog, name):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("pretrain.training.compiling.check_compiler", lambda device: None)
    assert compiler_wanted("auto", torch.device("cpu"), small_config(**NO_DROPOUT))
    assert not compiler_wanted("auto", torch.device("cpu"), small_config(**{**NO_DROPOUT, name: 0.1}))
    assert "with dropout a compiled step is slower on a CPU" in caplog.text


def test_false_looks_for_no_compiler(monkeypatch):
    monkeypatch.setattr("pretrain.training.compiling.check_compiler", lambda device: pytest.fail("looked for one"))
    assert compiler_wanted(False, torch.device("cpu"), small_config(**NO_DROPOUT)) is False


@pytest.mark.parametrize(
    ("lengths_vary", "one", "options"),
    [
        (False, True, {"dynamic": None, "mode": "reduce-overhead"}),
        (True, True, {"dynamic": True, "mode": "reduce-overhead"}),
        (True, False, {"dynamic": True, "mode": None}),
    ],
)
def test_on_a_gpu_graphs_are_replayed_unless_gradients_are_added_up(lengths_vary, one, options, monkeypatch):
    given = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: given.append(options))
    compile_network(torch.nn.Linear(1, 1), torch.device("cuda"), lengths_vary, one)
    assert given == [options]


@pytest.mark.gpu
@pytest.mark.slow
def test_a_run_that_is_compiled_for_a_gpu_has_the_losses_of_one_that_is_not(recipe, tmp_path):
    recipe = without_dropout(recipe, device="cuda", precision="bf16")
    plain, compiled = train(recipe, tmp_path / "plain"), train(recipe, tmp_path / "compiled", compile=True)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-2, atol=1e-3)

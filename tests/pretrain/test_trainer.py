import dataclasses
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch._inductor.config
import yaml
from small import small_config

from maeast_upstream import load_model
from maeast_upstream.frontend import SSAST_FRONTEND
from pretrain.cli import read_recipe
from pretrain.config import LossConfig, MaskConfig, OptimConfig
from pretrain.trainer import Trainer
from pretrain.training.run_folder import states

AUDIO = Path(__file__).parents[1] / "data" / "audio"


def state_of(run_folder):
    return torch.load(states(Path(run_folder))[-1], weights_only=True)


def log_of(run_folder):
    return [json.loads(line) for line in (Path(run_folder) / "metrics.jsonl").read_text().splitlines()]


def assert_equal_states(one, other):
    for part in ("objective",):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    for number, moments in one["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, other["optimizer"]["state"][number][name])
    assert one["step"] == other["step"]


def signal_at(trainer, step, number):
    """Have the process get a signal while the trainer is in the middle of batch ``step``."""
    update = trainer._update

    def batch(batches):
        if trainer.step == step:
            os.kill(os.getpid(), number)
        return update(batches)

    trainer._update = batch


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_as_if_it_never_stopped(recipe, tmp_path, number, caplog):
    before = signal.getsignal(signal.SIGINT)  # ignored where the suite runs in the background
    Trainer(recipe).train()
    other = dataclasses.replace(recipe, out=str(tmp_path / "other"))
    trainer = Trainer(other)
    signal_at(trainer, 3, number)
    assert trainer.train() is False
    assert state_of(other.out)["step"] == 4, "the batch in which the signal came is finished"
    assert "stopped at batch 4 and saved" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before
    assert Trainer(other).train() is True
    assert_equal_states(state_of(recipe.out), state_of(other.out))
    assert load_model(other.out).config.provenance.steps == 6


@pytest.mark.slow
def test_a_killed_run_repeats_what_was_not_saved(recipe, tmp_path):
    Trainer(recipe).train()
    other = dataclasses.replace(recipe, out=str(tmp_path / "other"))
    trainer = Trainer(other)
    update = trainer._update

    def batch(batches):
        if trainer.step == 5:
            raise RuntimeError("power cut")
        return update(batches)

    trainer._update = batch
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.train()
    assert state_of(other.out)["step"] == 3
    assert [line["step"] for line in log_of(other.out)] == [2, 4]
    Trainer(other).train()
    assert_equal_states(state_of(recipe.out), state_of(other.out))
    assert [line["step"] for line in log_of(other.out)] == [2, 4, 6]


BROKEN = {
    "no optimizer": lambda state: state.pop("optimizer"),
    "a tensor is missing": lambda state: state["objective"].popitem(),
    "another shape": lambda state: state["objective"].update({"network.patch_embed.weight": torch.zeros(3)}),
    "no tensor": lambda state: state["objective"].update({"network.patch_embed.weight": [1.0]}),
    "no random numbers": lambda state: state["random"].pop("cpu"),
    "statistics are NaN": lambda state: state["normalisation"].update(mean=float("nan")),
    "an average of another shape": lambda state: state["average"]["values"].update({"patch_embed.bias": torch.ones(1)}),
    "an average of another network": lambda state: state["average"]["values"].update({"other": torch.ones(1)}),
}


@pytest.mark.slow
def test_a_run_goes_back_before_a_state_that_cannot_be_restored(recipe, caplog):
    optim = dataclasses.replace(recipe.optim, ema_decay=0.9)
    recipe = dataclasses.replace(recipe, optim=optim)
    Trainer(recipe).train()
    newest = states(Path(recipe.out))[-1]
    whole = newest.read_bytes()
    for how, change in BROKEN.items():
        caplog.clear()
        state = torch.load(newest, weights_only=True)
        change(state)
        torch.save(state, newest)
        trainer = Trainer(recipe)
        assert trainer.step == 3, how
        assert "00000006.pt: not the state of a run, or a broken one (" in caplog.text
        trainer.close()
        newest.write_bytes(whole)
    trainer = Trainer(recipe)
    assert trainer.step == 6
    trainer.close()


def test_the_last_batch_has_its_line_however_few_there_are(recipe):
    Trainer(dataclasses.replace(recipe, log_every=4)).train()
    assert [line["step"] for line in log_of(recipe.out)] == [4, 6]


def test_max_minutes_saves_and_stops_as_asked(recipe):
    short = dataclasses.replace(recipe, max_minutes=1e-9)
    assert Trainer(short).train() is True
    assert state_of(recipe.out)["step"] == 1
    assert Trainer(recipe).train() is True
    assert state_of(recipe.out)["step"] == 6


def test_a_finished_run_stays_as_it_is(recipe):
    Trainer(recipe).train()
    before = state_of(recipe.out)
    assert Trainer(recipe).train() is True
    assert_equal_states(before, state_of(recipe.out))


def test_going_on_with_other_settings_is_refused_with_both_shown(recipe):
    Trainer(recipe).train()
    with pytest.raises(
        ValueError,
        match=r"begun with masking\.ratio 0\.75, not 0\.5: give another --out",
    ):
        Trainer(dataclasses.replace(recipe, masking=MaskConfig(ratio=0.5, chunk_share=0.5)))
    longer = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, steps=8))
    assert Trainer(longer).step == 6


def test_the_run_folder_is_an_encoder_with_log_and_recipe(recipe):
    Trainer(recipe).train()
    folder = Path(recipe.out)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        "config.yaml",
        "last",
        "metrics.jsonl",
        "states",
        "stats.json",
        "tensorboard",
    ]
    lines = log_of(folder)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["lr"] for line in lines] == [1e-3, 1e-3, 5e-4]
    assert {
        "loss",
        "reconstruction",
        "classification",
        "clip",
        "grad_norm",
        "lr",
        "crops_per_second",
    } < set(lines[0])
    for line in lines:
        total = 10 * line["reconstruction"] + line["classification"] + line["clip"]
        assert line["loss"] == pytest.approx(total, abs=1e-3)
    assert load_model(folder).config.normalisation.std > 1
    assert load_model(folder).config.provenance.data.endswith("110 clips of audio")
    assert yaml.safe_load((folder / "config.yaml").read_text())["optim"]["steps"] == 6
    assert read_recipe(["--config", str(folder / "config.yaml")]) == recipe


def test_the_encoder_is_the_trained_network(recipe):
    trainer = Trainer(recipe)
    before = trainer.objective.network.state_dict()["patch_embed.weight"].clone()
    trainer.train()
    trained = trainer.objective.network.state_dict()
    loaded = load_model(recipe.out).network.state_dict()
    assert not torch.equal(before, trained["patch_embed.weight"])
    assert all(torch.equal(value, loaded[name]) for name, value in trained.items())


def test_a_run_may_begin_with_a_checkpoint(recipe, tmp_path):
    Trainer(recipe).train()
    child = Trainer(dataclasses.replace(recipe, out=str(tmp_path / "child"), init=recipe.out))
    parent = load_model(recipe.out)
    weights = parent.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in child.objective.network.state_dict().items())
    assert child.encoder_config().provenance.parents == [recipe.out]
    assert child.objective.normalise.statistics == parent.config.normalisation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": small_config(depth=2)}, r"its model\.depth is 3, the recipe's 2"),
        (
            {"frontend": SSAST_FRONTEND},
            r"its frontend\.window is 'povey', the recipe's 'hanning'",
        ),
    ],
)
def test_a_parent_of_another_shape_is_refused(recipe, tmp_path, change, message):
    Trainer(recipe).save()
    with pytest.raises(ValueError, match=message):
        Trainer(dataclasses.replace(recipe, out=str(tmp_path / "child"), init=recipe.out, **change))


@pytest.mark.slow
def test_the_loss_falls_on_one_repeated_batch(recipe):
    trainer = Trainer(dataclasses.replace(recipe, optim=OptimConfig(lr=3e-3, steps=60, warmup_steps=5, decay_steps=0)))
    batch = trainer.source[0]
    losses = []
    for _ in range(60):
        losses.append(float(trainer._update([batch])["loss"]))
        trainer.step += 1
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_bf16_and_activation_checkpointing_train_close_to_float32(recipe):
    def losses(**change):
        trainer = Trainer(dataclasses.replace(recipe, **change))
        return [float(trainer._update([trainer.source[0]])["loss"]) for _ in range(3)]

    exact = losses()
    assert losses(precision="bf16") == pytest.approx(exact, rel=0.03)
    recomputed = dataclasses.replace(recipe.model, checkpoint_activations=True)
    assert losses(model=recomputed) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("save_every", [1, 100])
def test_a_run_that_diverges_says_so_and_leaves_the_last_save(recipe, save_every):
    trainer = Trainer(dataclasses.replace(recipe, save_every=save_every))
    trainer.save()
    update = trainer._update

    def batch(batches):
        values = update(batches)
        with torch.no_grad():
            trainer.objective.network.patch_embed.bias.fill_(torch.nan)
        return {**values, "loss": values["loss"] * torch.nan}

    trainer._update = batch
    with pytest.raises(ValueError, match=r"NaN or infinite|the loss is nan"):
        trainer.train()
    assert state_of(recipe.out)["step"] == 0
    assert load_model(recipe.out).config.provenance.steps == 0


def test_what_cannot_be_a_run_is_refused(recipe, tmp_path):
    with pytest.raises(ValueError, match="device must be cpu, cuda, cuda:N or auto, got 'abacus'"):
        Trainer(dataclasses.replace(recipe, device="abacus"))
    with pytest.raises(ValueError, match="no such folder"):
        Trainer(
            dataclasses.replace(
                recipe,
                data=dataclasses.replace(recipe.data, corpus="nowhere", packed=None),
            )
        )
    Path(recipe.out).mkdir(exist_ok=True)
    (Path(recipe.out) / "states").mkdir()
    (Path(recipe.out) / "states" / "00000003.pt").write_bytes(b"PK not a state")
    with pytest.raises(ValueError, match=r"00000003\.pt: not the state of a run"):
        Trainer(recipe)


def test_the_log_says_what_is_trained(recipe, caplog):
    caplog.set_level(logging.INFO)
    Trainer(dataclasses.replace(recipe, losses=LossConfig())).train()
    assert "0.1 M parameters on cpu" in caplog.text
    assert "110 clips" in caplog.text


def test_a_run_ends_with_what_to_do_next(recipe, caplog):
    caplog.set_level(logging.INFO)
    Trainer(recipe).train()
    assert caplog.messages[-1] == f"done: {recipe.out}; try maeast embed AUDIO --checkpoint {recipe.out}"


def test_after_a_stop_the_line_of_the_log_covers_the_batches_before_it(recipe, tmp_path):
    Trainer(dataclasses.replace(recipe, log_every=6)).train()
    other = dataclasses.replace(recipe, log_every=6, out=str(tmp_path / "other"))
    for _ in range(3):
        Trainer(dataclasses.replace(other, max_minutes=1e-9)).train()
    Trainer(other).train()
    (whole,), (resumed,) = log_of(recipe.out), log_of(other.out)
    rates = {"crops_per_second", "hours_per_second", "share_of_peak"}
    assert {name: value for name, value in whole.items() if name not in rates} == {
        name: value for name, value in resumed.items() if name not in rates
    }


def with_corpus(recipe, folder, count, **settings):
    """The recipe on a folder of ``count`` clips, decoded into the default place."""
    folder.mkdir(exist_ok=True)
    for clip in sorted(AUDIO.glob("*.opus"))[:count]:
        shutil.copy2(clip, folder)
    data = dataclasses.replace(recipe.data, corpus=str(folder), packed=None, **settings)
    return dataclasses.replace(recipe, data=data, max_minutes=1e-9)


@pytest.mark.parametrize("pack", [True, False])
def test_going_on_with_another_corpus_is_said_once_with_both(recipe, tmp_path, caplog, pack):
    Trainer(with_corpus(recipe, tmp_path / "a", 6, pack=pack)).train()
    Trainer(with_corpus(recipe, tmp_path / "a", 6, pack=pack)).train()
    assert "not the same audio" not in caplog.text
    Trainer(with_corpus(recipe, tmp_path / "a", 9, pack=pack)).train()
    Trainer(with_corpus(recipe, tmp_path / "a", 9, pack=pack)).train()
    assert caplog.text.count("not the same audio") == 1
    assert re.search(r"begun with 0\.0 h, 6 clips of a; continues from batch 3 with 0\.0 h, 9 clips of a", caplog.text)


def test_short_clips_that_0_1_left_out_of_a_run_are_named_when_it_goes_on(recipe, caplog):
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, crop_seconds=2.0))
    Trainer(dataclasses.replace(recipe, max_minutes=1e-9)).train()
    path = states(Path(recipe.out))[-1]
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if name not in ("corpus", "meter")}, path)
    Trainer(recipe).train()
    assert "never drew clips shorter than half a crop; from batch 2 on they are drawn" in caplog.text


def test_a_corpus_that_has_grown_is_trained_on_whole(recipe, tmp_path):
    Trainer(with_corpus(recipe, tmp_path / "a", 6)).train()
    grown = with_corpus(recipe, tmp_path / "a", 9)
    trainer = Trainer(dataclasses.replace(grown, out=str(tmp_path / "second")))
    assert len(trainer.source.clips.lengths) == 9
    assert len(list((tmp_path / "packed").iterdir())) == 2
    assert not list((tmp_path / "a").glob("packed"))


@pytest.mark.parametrize("pack", [True, False])
def test_files_that_cannot_be_decoded_count_when_the_corpus_is_packed_too(recipe, tmp_path, pack):
    recipe = with_corpus(recipe, tmp_path / "a", 6, pack=pack)
    (tmp_path / "a" / "broken.wav").write_bytes(b"not audio at all")
    for _ in range(2):  # the second run finds the packed copy
        with pytest.raises(ValueError, match=r"1 of 7 files of .*/a could not be decoded, .*broken\.wav \("):
            Trainer(recipe)
    data = dataclasses.replace(recipe.data, max_bad_share=0.2)
    assert Trainer(dataclasses.replace(recipe, data=data)).train()
    data = dataclasses.replace(recipe.data, corpus=str(AUDIO), validation=str(tmp_path / "a"))
    with pytest.raises(ValueError, match="1 of 7 files of .*/a could not be decoded"):
        Trainer(dataclasses.replace(recipe, data=data))


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_trains_on_a_cpu_with_the_losses_of_one_that_is_not(recipe, tmp_path):
    # without dropout, whose random numbers a compiled network draws in another way
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop"), 0.0)
    recipe = dataclasses.replace(recipe, model=small_config(depth=1, decoder_depth=1, **rates), log_every=1)
    recipe = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, steps=4))
    Trainer(recipe).train()
    compiled = dataclasses.replace(recipe, out=str(tmp_path / "compiled"), compile=True)
    Trainer(compiled).train()
    for one, other in zip(log_of(recipe.out), log_of(compiled.out), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    stopped = dataclasses.replace(compiled, out=str(tmp_path / "stopped"))
    Trainer(dataclasses.replace(stopped, max_minutes=1e-9)).train()
    Trainer(stopped).train()
    assert_equal_states(state_of(compiled.out), state_of(stopped.out))


@torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
def test_without_a_compiler_compile_is_refused_before_the_corpus_is_opened(recipe):
    torch._dynamo.reset()  # what another test compiled needs no compiler
    nowhere = dataclasses.replace(recipe.data, corpus="nowhere", packed=None)
    with pytest.raises(ValueError, match=r"compile true: torch cannot compile this on cpu \(.*\); give compile false"):
        Trainer(dataclasses.replace(recipe, data=nowhere, compile=True))


def test_what_torch_cannot_compile_is_one_line(recipe):
    class InductorError(Exception):
        pass

    InductorError.__module__ = "torch._inductor.exc"
    trainer = Trainer(recipe)

    def forward(*arguments):
        raise InductorError("AssertionError:\n\nlong")

    trainer.updater.forward = forward
    with pytest.raises(
        ValueError, match=r"torch cannot compile this on cpu \(AssertionError: long\); give compile false$"
    ):
        trainer.train()


def test_the_corpus_is_no_folder_for_its_run(recipe, tmp_path):
    recipe = with_corpus(recipe, tmp_path / "a", 2)
    with pytest.raises(ValueError, match="the folder of the corpus itself; give another --out"):
        Trainer(dataclasses.replace(recipe, out=str(tmp_path / "a")))


@pytest.mark.gpu
def test_a_gpu_trains_and_goes_on(recipe):
    recipe = dataclasses.replace(recipe, device="cuda", precision="bf16", max_minutes=1e-9)
    Trainer(recipe).train()
    trainer = Trainer(dataclasses.replace(recipe, max_minutes=None))
    assert trainer.step == 1
    assert trainer.train()
    assert load_model(recipe.out).config.provenance.steps == 6

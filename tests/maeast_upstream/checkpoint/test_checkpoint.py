import argparse
import json
import os
import pickle
import stat
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from maeast_upstream import checkpoint, load_model
from maeast_upstream.checkpoint import published
from maeast_upstream.cli import main
from maeast_upstream.config import EncoderConfig


def content_of(path):
    return torch.load(path, weights_only=True)


def assert_same_content(one, other):
    assert one["cfg"] == other["cfg"]
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


@pytest.mark.s3prl
def test_published_to_ours_and_back_is_the_same(write_published, tokens, tmp_path):
    path = write_published(tokens)
    checkpoint.save_state(tmp_path / "ours", (loaded := checkpoint.read(path)).state, loaded.config)
    checkpoint.save_published(tmp_path / "again.pt", checkpoint.read(tmp_path / "ours"))
    assert_same_content(content_of(path), content_of(tmp_path / "again.pt"))
    assert loaded.config.provenance.steps == 123


@pytest.mark.s3prl
def test_our_own_checkpoint_as_a_published_file_gives_the_same_features_in_s3prl(make_encoder, tmp_path, clips):
    pytest.importorskip("s3prl")
    from reference import load_expert

    encoder = make_encoder()
    checkpoint.save_published(
        tmp_path / "ours.pt",
        checkpoint.Loaded(encoder.config, encoder.network.state_dict()),
    )
    clip = next(clip for clip in clips if len(clip) >= 2800)
    with torch.no_grad():
        expected = load_expert(tmp_path / "ours.pt")([clip])["hidden_states"][-1]
    assert (encoder.encode([clip]).hidden_states[-1] - expected).abs().max() <= 1e-5


@pytest.mark.s3prl
def test_a_decoder_of_another_width_is_read_and_written(write_published, tmp_path):
    path = write_published("patch", decoder_embed_dim=24, use_post_enc_proj=True)
    loaded = checkpoint.read(path)
    assert loaded.config.model.decoder_dim == 24
    checkpoint.save_published(tmp_path / "again.pt", loaded)
    assert_same_content(content_of(path), content_of(tmp_path / "again.pt"))


class FairseqMeter:
    """Stands for what a real file holds beside weights: an object of a class that is not installed here."""

    def __init__(self):
        self.value = 3.0


@pytest.fixture
def fairseq_file(write_published, tmp_path, monkeypatch):
    content = content_of(write_published("patch"))
    module = types.ModuleType("fairseq.meters")
    FairseqMeter.__module__ = "fairseq.meters"
    FairseqMeter.__qualname__ = "FairseqMeter"
    module.FairseqMeter = FairseqMeter
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.meters", module)
    extra = {
        "args": argparse.Namespace(lr=[0.1]),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "mae", "lr": np.float64(1e-4)}],
        "task_state": {},
        "extra_state": {"meter": FairseqMeter(), "array": np.arange(3)},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }
    path = tmp_path / "fairseq.pt"
    torch.save({**content, **extra}, path)
    return path


@pytest.mark.s3prl
def test_a_file_straight_from_fairseq_loads_without_its_classes(fairseq_file, monkeypatch, write_published):
    monkeypatch.delitem(sys.modules, "fairseq.meters")
    loaded = checkpoint.read(fairseq_file)
    expected = checkpoint.read(write_published("patch"))
    assert all(torch.equal(value, loaded.state[name]) for name, value in expected.state.items())


@pytest.mark.s3prl
def test_an_omegaconf_config_is_read_as_plain_data(write_published, tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    content = content_of(write_published("patch"))
    path = tmp_path / "omegaconf.pt"
    torch.save({**content, "cfg": omegaconf.OmegaConf.create(content["cfg"])}, path)
    assert checkpoint.read(path).config == checkpoint.read(write_published("patch")).config


class CallsSystem:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("hide", ["torch file", "plain pickle", "inside a fairseq-like state"])
def test_a_pickle_that_calls_os_system_is_refused_and_does_nothing(tmp_path, capsys, hide):
    sentinel = tmp_path / "was_run"
    evil = CallsSystem(f"touch {sentinel}")
    path = tmp_path / "evil.pt"
    if hide == "plain pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(
            {"cfg": {}, "model": {}, "extra": evil, "args": argparse.Namespace(x=evil)},
            path,
        )
    assert main(["info", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "system" in error
    assert "nothing of it was run" in error
    assert not sentinel.exists()


def test_half_precision_on_disk_is_float32_in_memory(make_encoder, tmp_path):
    encoder = make_encoder()
    checkpoint.save_folder(tmp_path / "half", encoder.network, encoder.config, torch.float16)
    loaded = checkpoint.read(tmp_path / "half")
    assert all(value.dtype == torch.float32 for value in loaded.state.values())


def test_a_run_folder_gives_its_ema_else_its_best_else_its_last(make_encoder, tmp_path):
    encoder = make_encoder()
    for part in ("last", "best", "ema"):
        config = EncoderConfig.from_dict({**encoder.config.to_dict(), "provenance": {"data": part}})
        checkpoint.save_folder(tmp_path / part, encoder.network, config)
        assert checkpoint.read(tmp_path).config.provenance.data == part


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_of_a_run_whose_preferred_encoder_is_broken_the_whole_one_is_named(make_encoder, tmp_path, name):
    for part in ("last", "best", "ema"):
        make_encoder().save_pretrained(tmp_path / part)
    for broken, whole in (("ema", "best"), ("best", "last")):
        (tmp_path / broken / name).write_bytes((tmp_path / broken / name).read_bytes()[:-10])
        with pytest.raises(ValueError, match=f"ema.*{whole} is whole: give that folder instead"):
            checkpoint.read(tmp_path)
    assert checkpoint.read(tmp_path / "last").state


def test_saving_again_replaces_the_folder_as_a_whole(make_encoder, tmp_path):
    encoder = make_encoder()
    folder = tmp_path / "model"
    checkpoint.save_folder(folder, encoder.network, encoder.config)
    (folder / "stale").touch()
    checkpoint.save_folder(folder, encoder.network, encoder.config)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_umask_decides_who_may_read_the_weights(make_encoder, tmp_path):
    before = os.umask(0o027)
    try:
        make_encoder().save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()} == {0o640}


def break_folder(folder, how):
    config = json.loads((folder / "config.json").read_text())
    if how == "unknown key":
        config["model"]["width"] = 3
    if how == "wrong type":
        config["model"]["depth"] = "3"
    if how == "out of range":
        config["model"]["num_heads"] = 7
    if how == "wrong shape":
        config["model"]["ffn_dim"] = 128
    if how == "missing tensor":
        config["model"]["depth"] = 4
    if how == "far too deep":
        config["model"]["depth"] = 10**9
    if how == "far too wide":
        config["model"]["embed_dim"] = 4 * 10**20
    if how == "too large a number":
        config["normalisation"]["mean"] = 10**400
    if how == "missing heads":
        del config["model"]["num_heads"]
    if how == "missing normalisation":
        del config["normalisation"]
    if how == "unexpected tensor":
        config["model"]["depth"] = 2
    (folder / "config.json").write_text("{" if how == "not JSON" else json.dumps(config))
    if how == "not safetensors":
        (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    if how == "no weights":
        (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("unknown key", "config.model has unknown key 'width'"),
        ("wrong type", "config.model.depth must be int, got '3'"),
        ("out of range", "num_heads 7 does not divide"),
        ("wrong shape", "has shape"),
        ("missing tensor", "is missing"),
        ("missing heads", "config.model.num_heads is missing; a default may not be what was trained"),
        ("missing normalisation", "config.normalisation.mean is missing"),
        ("unexpected tensor", "unexpected tensor"),
        ("far too deep", "depth must be at most 1000, got 1000000000"),
        ("far too wide", "embed_dim is too large"),
        ("too large a number", "config.normalisation.mean must be float"),
        ("not JSON", "config.json"),
        ("not safetensors", "not a safetensors file"),
        ("no weights", "no model.safetensors in it"),
    ],
)
def test_a_broken_folder_is_one_clear_line(make_encoder, tmp_path, capsys, how, message):
    make_encoder().save_pretrained(tmp_path / "model")
    break_folder(tmp_path / "model", how)
    assert main(["info", str(tmp_path / "model")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(("value", "message"), [(3e38, "no trained network"), (float("nan"), "NaN or infinite")])
def test_weights_that_no_training_gives_are_refused(make_encoder, tmp_path, value, message):
    encoder = make_encoder()
    with torch.no_grad():
        encoder.network.encoder.blocks[1].fc1.weight[3, 5] = value
    encoder.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=f"fc1.weight holds .*{message}"):
        load_model(tmp_path / "model")


def test_of_weights_that_do_not_fit_their_config_nothing_is_loaded(make_encoder, tmp_path, monkeypatch):
    make_encoder().save_pretrained(tmp_path / "model")
    break_folder(tmp_path / "model", "wrong shape")
    monkeypatch.setattr(torch, "aminmax", None)
    with pytest.raises(ValueError, match="has shape"):
        checkpoint.read(tmp_path / "model")


@pytest.mark.s3prl
@pytest.mark.parametrize(
    ("section", "setting", "value", "message"),
    [
        ("model", "layer_norm_first", True, "layer_norm_first is True"),
        ("model", "activation_fn", "relu", "activation_fn is 'relu'"),
        ("model", "enc_conv_pos", True, "enc_conv_pos"),
        ("model", "ast_kernel_stride_time", 8, "overlapping patches"),
        ("task", "sample_rate", 8000, "sample_rate is 8000"),
        ("model", "encoder_layers", 2, "unexpected tensor"),
        ("model", "encoder_layers", "3", "encoder_layers|wrong type|int"),
        ("model", "decoder_layers", 1, "unexpected tensor"),
    ],
)
def test_what_is_not_supported_is_named(write_published, tmp_path, section, setting, value, message):
    content = content_of(write_published("patch"))
    content["cfg"][section][setting] = value
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(ValueError, match=message):
        checkpoint.read(tmp_path / "changed.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"w": torch.zeros(2)}},
        {"state_dict": {"encoder.w": torch.zeros(2)}},
        {
            "cfg": {"model": {"_name": "wav2vec2"}, "task": {}},
            "model": {"w": torch.zeros(2)},
        },
        torch.zeros(3),
        [1, 2],
    ],
)
def test_a_checkpoint_of_another_model_is_one_clear_line(tmp_path, capsys, content):
    torch.save(content, tmp_path / "other.pt")
    assert main(["info", str(tmp_path / "other.pt")]) == 1
    error = capsys.readouterr().err
    assert "not a MAE-AST checkpoint" in error
    assert error.count("\n") == 1


def test_a_missing_checkpoint_says_what_may_be_given(capsys):
    assert main(["info", "nowhere.pt"]) == 1
    assert "no checkpoint 'nowhere.pt'" in (error := capsys.readouterr().err)
    assert "mae_ast_patch" in error


@pytest.mark.parametrize("source", ["", " ", 5, True, [], b"bundled", "~nobody-of-this-name/x", "x" * 5000, "a\0b"])
def test_what_names_no_checkpoint_is_refused_in_one_short_line(source):
    with pytest.raises(ValueError, match="checkpoint") as error:
        checkpoint.resolve(source)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_the_checkpoint_in_the_package_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.resolve("bundled") == checkpoint.resolve(None) == checkpoint.BUNDLED
    (tmp_path / "bundled").mkdir()  # a path that exists is meant, as for every other name
    assert checkpoint.resolve("bundled") == Path("bundled")


def test_the_folder_of_a_fine_tuning_gives_its_encoder(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "tuned" / "drums" / "encoder")
    for folder in (tmp_path / "tuned", tmp_path / "tuned" / "drums"):
        assert checkpoint.read(folder).config == checkpoint.read_config(folder) == encoder.config
    encoder.save_pretrained(tmp_path / "tuned" / "words" / "encoder")
    with pytest.raises(ValueError, match="holds 2 fine-tuned encoders: give one, such as .*tuned/drums/encoder"):
        checkpoint.read(tmp_path / "tuned")


def test_a_hub_id_is_fetched_and_offline_says_what_to_put_where(make_encoder, tmp_path, monkeypatch):
    import huggingface_hub

    make_encoder().save_pretrained(tmp_path / "snapshot")
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **_: str(tmp_path / "snapshot"),
    )
    assert load_model("org/name").num_layers == 3

    def offline(name, **_):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        ValueError,
        match="offline, put its model.safetensors and config.json into a folder",
    ):
        load_model("org/name")


@pytest.mark.s3prl
def test_convert_and_info_through_the_command_line(write_published, tmp_path, capsys):
    path, ours, again = (
        write_published("frame"),
        tmp_path / "ours",
        tmp_path / "again.pt",
    )
    assert main(["convert", str(path), str(ours)]) == 0
    assert main(["convert", str(ours), str(again)]) == 0
    assert_same_content(content_of(path), content_of(again))
    assert main(["convert", str(ours), str(again)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["convert", str(ours), str(again), "--force"]) == 0
    assert main(["info", str(ours)]) == 0
    assert "3 layers of 1 x 48" in capsys.readouterr().out


def test_what_the_published_format_cannot_say_is_refused():
    loaded = checkpoint.read(checkpoint.BUNDLED)
    with pytest.raises(ValueError, match="one ffn width and number of heads"):
        published.to_published(loaded.config, loaded.state)

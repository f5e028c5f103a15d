"""s3prl's run_downstream with `mae_ast`: trains, resumes, evaluates; what cannot work is one line before it starts."""

import argparse
import builtins
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from superb_sets import make

import maeast_upstream
from maeast_upstream.integrations.s3prl.repairs import install_repairs
from maeast_upstream.integrations.s3prl.runner import (
    cuda_calls_without_cuda,
    prepare,
    redirect_caches,
    whole_checkpoints,
)
from maeast_upstream.integrations.s3prl.tasks import TASKS
from maeast_upstream.run_downstream import main

pytest.importorskip("s3prl")
pytestmark = [pytest.mark.s3prl, pytest.mark.slow]
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "_unknown_", "_silence_")
SCRIPT = Path(maeast_upstream.__file__).parent / "run_downstream.py"
CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """KS's layout with a dozen clips of 0.2 to 0.9 s."""
    root, random = tmp_path_factory.mktemp("ks"), np.random.default_rng(0)

    def write(path, samples):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * random.standard_normal(samples), 16000)

    for word in WORDS[:2]:
        for number in range(14):
            write(root / "train" / word / f"{number}{word}_nohash_0.wav", 3000 + 900 * number)
    write(root / "train" / "_background_noise_" / "noise.wav", 40_000)
    for word in WORDS:
        write(root / "test" / word / "a_nohash_0.wav", 8000)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def override(data, steps, **more):
    datarc = {
        "speech_commands_root": str(data / "train"),
        "speech_commands_test_root": str(data / "test"),
        "batch_size": 4,
        "num_workers": 0,
    }
    runner = {"total_steps": steps, "log_step": 1, "eval_step": 2, "save_step": 1}
    settings = {f"config.downstream_expert.datarc.{name}": value for name, value in datarc.items()}
    settings |= {f"config.runner.{name}": value for name, value in runner.items()} | more
    return ["-o", ",,".join(f"{name}={value!r}" for name, value in settings.items())]


def train(data, steps, *options, expdir="run"):
    return main(
        ["-m", "train", "-u", "mae_ast", "-d", "speech_commands", "-p", expdir, *CPU, *override(data, steps), *options]
    )


def load(path):
    install_repairs()
    return torch.load(path)


@pytest.mark.parametrize(
    "options", [[], ["-f"], ["-s", "last_hidden_state"], ["-l", "1", "--upstream_feature_normalize"]]
)
def test_it_trains_without_a_config_file(here, data, write_published, options):
    before = builtins.isinstance, torch.Tensor.cuda, sys.argv
    assert train(data, 2, "-k", str(write_published("frame")), *options) == 0
    assert (builtins.isinstance, torch.Tensor.cuda, sys.argv) == before
    states = load("run/states-2.ckpt")
    assert ("Upstream" in states) is ("-f" in options)
    assert ("weights" in states["Featurizer"]) is (options[:1] in ([], ["-f"]))
    assert not list(here.rglob("*.part*"))


def test_a_stopped_run_continues_as_if_it_had_not_been_stopped(here, data, write_published):
    """The optimizer's moments, the step and the fine-tuned weights come back; the data's order is the seed's."""
    options = ["-f", "-k", str(write_published("patch"))]
    assert train(data, 2, *options) == 0
    first = load("run/states-2.ckpt")
    assert train(data, 3, "-a", *options) == 0
    assert not Path("run/states-2.ckpt").exists()
    last = load("run/states-3.ckpt")
    assert last["Step"] == 3
    moved = [name for name, value in last["Upstream"].items() if not torch.equal(value, first["Upstream"][name])]
    assert moved
    assert next(iter(last["Optimizer"]["state"].values()))["step"] == 3
    assert main(["-m", "evaluate", "-e", "run/states-3.ckpt", "-t", "test", *CPU]) == 0


def test_options_of_the_upstream_are_used(here, data):
    Path("options.yaml").write_text(yaml.safe_dump({"hop_ms": 40, "mel": "mean", "precision": "bf16"}))
    assert train(data, 1, "-g", "options.yaml") == 0
    assert load("run/states-1.ckpt")["Downstream"]["projector.weight"].shape[1] == 192
    assert list(Path("run").glob("options_*.yaml"))  # s3prl keeps a copy


def test_started_by_its_path_it_does_not_import_its_neighbours_for_the_hubs_expert(here, data, write_published):
    """And with --hub huggingface, from a folder of `maeast export-s3prl`."""
    from maeast_upstream import cli
    from maeast_upstream.commands import export_s3prl

    assert cli.run(export_s3prl.main, [str(write_published("patch")), "hub"]) == 0
    command = [sys.executable, SCRIPT, "-m", "train", "--hub", "huggingface", "-u", "hub", "-d", "speech_commands"]
    command += ["-n", "run", *CPU, *override(data, 1)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load("result/downstream/run/states-1.ckpt")["Downstream"]["projector.weight"].shape[1] == 8 * 48


def test_checkpoints_get_their_names_when_they_are_complete(here, data, monkeypatch, capsys):
    """Killed while it writes, s3prl would leave half a file that -a then stumbles over."""
    save = torch.save

    def breaks_off(obj, f, *args, **kwargs):
        save(obj, f, *args, **kwargs)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", breaks_off)
    assert train(data, 1) == 1
    assert not list(Path("run").glob("*.ckpt"))
    assert "s3prl stopped: OSError: No space left on device (see run/traceback.txt)" in capsys.readouterr().err
    assert "Traceback" in Path("run/traceback.txt").read_text()
    monkeypatch.setattr(torch, "save", save)
    assert train(data, 1, "-a") == 0
    monkeypatch.setattr(torch, "save", breaks_off)
    assert train(data, 2, "-a") == 1
    assert [path.name for path in Path("run").glob("*.ckpt")] == ["states-1.ckpt"]  # with max_keep 1, too
    monkeypatch.setattr(torch, "save", save)
    assert train(data, 2, "-a") == 0
    assert [path.name for path in Path("run").glob("states-*.ckpt")] == ["states-2.ckpt"]
    assert train(data, 2) == 0  # begun anew in the same folder
    assert [path.name for path in Path("run").glob("states-*.ckpt")] == ["states-2.ckpt"]


def test_only_s3prls_runner_gets_other_functions_for_files(here):
    importlib.import_module("maeast_upstream.superb")
    runner = importlib.import_module("s3prl.downstream.runner")
    save, remove = torch.save, os.remove
    with whole_checkpoints():
        assert (torch.save, os.remove) == (save, remove)
        assert runner.torch.save is not save
        assert runner.os.remove is not remove
        assert runner.torch.float16 is torch.float16
    assert (runner.torch, runner.os) == (torch, os)


@pytest.mark.parametrize("available", [True, False])
def test_cuda_calls_keep_a_tensor_on_a_cpu_during_a_run_only(monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    before = torch.Tensor.cuda
    with cuda_calls_without_cuda():
        assert (torch.Tensor.cuda is before) is available
        if not available:
            assert (x := torch.ones(1)).cuda(non_blocking=True) is x
    assert torch.Tensor.cuda is before


NAMED = ["-u", "mae_ast", "-d", "speech_commands", "-p", "run"]
TRAIN = ["-m", "train", *NAMED, *CPU]


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "the following arguments are required: -m/--mode"),
    (["-m", "trian", *NAMED, *CPU], "invalid choice: 'trian'"),
    (["-m", "train", "-d", "speech_commands", "-n", "x", *CPU], "-u UPSTREAM is missing"),
    (["-m", "train", "-u", "mae_ast", "-n", "x", *CPU], "-d TASK is missing"),
    (["-m", "train", *NAMED[:4], *CPU], "a name with -n, or a folder with -p"),
    (["-m", "train", *NAMED], "add --device cpu"),
    ([*TRAIN, "-d", "spech"], "s3prl has no task 'spech'; -d must be one of"),
    ([*TRAIN, "-u", "mae"], "s3prl has no upstream 'mae'"),
    ([*TRAIN, "-c", "none.yaml"], "none.yaml: cannot be read as YAML"),
    ([*TRAIN, "-c", "none"], "no config for the task 'none'"),
    ([*TRAIN, "-k", "none.pt"], "no checkpoint 'none.pt'"),
    ([*TRAIN, "-g", "none.yaml"], "none.yaml: cannot be read as YAML"),
    ([*TRAIN, "-e", "none.ckpt"], "no checkpoint none.ckpt"),
    ([*TRAIN, "-e", "."], "holds no states-*.ckpt"),
    ([*TRAIN, "-i", "none.ckpt"], "no checkpoint none.ckpt"),
    ([*TRAIN, "-c", "emotion"], "-d speech_commands needs"),
    (TRAIN, "speech_commands_root"),
    (["-m", "evaluate", *NAMED, *CPU, "-t", "foo"], "-t 'foo': -d speech_commands is scored on train, dev or test"),
    (["-m", "train", "-u", "mae_ast", "-d", "sv_voxceleb1", "-p", "run", *CPU], "needs 16 time steps"),
    (["-m", "train", "-u", "mae_ast", "-d", "separation_stft2", "-p", "run", *CPU], "hop_ms: 40"),
])  # fmt: skip
def test_an_experiment_that_cannot_work_is_a_one_line_error_and_nothing_is_written(here, capfd, arguments, message):
    assert main(arguments) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(here.iterdir()) == []


def test_s3prls_parser_refuses_an_unknown_option(here, capfd):
    assert main([*TRAIN, "--bogus"]) == 1
    assert "unrecognized arguments: --bogus" in capfd.readouterr().err
    assert list(here.iterdir()) == []


def test_help_is_that_of_s3prl(capfd):
    assert main(["--help"]) == 0
    assert "--upstream_feature_selection" in capfd.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half a file"])
def test_a_broken_checkpoint_is_named(here, capfd, content):
    Path("run").mkdir()
    Path("run/states-7.ckpt").write_bytes(content)
    for arguments in ([*TRAIN, "-a"], [*TRAIN, "-e", "run"]):
        assert main(arguments) == 1
        assert "error: run/states-7.ckpt: broken, or not a checkpoint of s3prl" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["-e", "-i"])
def test_a_zip_of_another_origin_is_no_checkpoint_and_no_code_of_it_runs(here, capfd, option):
    class Touches:
        def __reduce__(self):
            return Path.touch, (Path("touched"),)

    torch.save({"model": torch.zeros(1)}, "weights.pt")
    torch.save({"Args": Touches(), "Config": {}, "Downstream": {}}, "evil.pt")
    with zipfile.ZipFile("other.zip", "w") as file:
        file.writestr("a", "b")
    for name in ("weights.pt", "evil.pt", "other.zip"):
        assert main([*TRAIN, option, name]) == 1
        assert f"error: {name}: not a checkpoint of s3prl" in capfd.readouterr().err
    assert not Path("touched").exists()


def test_the_name_of_a_config_is_not_confused_with_a_folder(here, capfd):
    Path("emotion").mkdir()
    assert main([*TRAIN, "-c", "emotion"]) == 1
    assert "-d speech_commands needs" in capfd.readouterr().err


def test_the_time_step_of_an_exported_folder_is_checked_too(here, capfd, write_published):
    from maeast_upstream import cli
    from maeast_upstream.commands import export_s3prl

    assert cli.run(export_s3prl.main, [str(write_published("patch")), "hub"]) == 0
    options = ["-m", "train", "--hub", "huggingface", "-u", "hub", "-d", "sv_voxceleb1", "-p", "run", *CPU]
    assert main(options) == 1
    assert "needs 16 time steps" in capfd.readouterr().err
    Path("fine.yaml").write_text("hop_ms: 40")
    assert main([*options, "-g", "fine.yaml"]) == 1
    assert "downstream_expert.datarc.file_path: no such" in capfd.readouterr().err


@pytest.mark.parametrize("task", ["voxceleb1", "sv_voxceleb1"])
def test_a_second_run_of_the_same_name_uses_its_own_data(tmp_path, task):
    pytest.importorskip("sox")
    importlib.import_module("maeast_upstream.superb")
    dataset = importlib.import_module(f"s3prl.downstream.{task}.dataset")
    before = {name: getattr(dataset, name) for name in ("CACHE_PATH", "__file__") if hasattr(dataset, name)}
    args = argparse.Namespace(
        hub="torch", upstream="fbank", downstream=task, mode="train", expdir=tmp_path / "run", evaluate_split="test"
    )
    try:
        places, found = [], []
        configs = {name: make(task, tmp_path / name) for name in ("one", "two")}
        for name in ("one", "two", "one"):
            prepare(args, config := configs[name])
            data = config["downstream_expert"]["datarc"]
            if task == "voxceleb1":
                places.append(Path(dataset.CACHE_PATH))
                own = dataset.SpeakerClassifiDataset("train", Path(data["file_path"]), data["meta_data"])
            else:
                places.append(Path(dataset.__file__).parent)
                roots = [f"{data['file_path']}/dev/wav"]
                own = dataset.SpeakerVerifi_train({"min_sec": 1}, ["Voxceleb1"], roots, "", n_jobs=1)
            found.append({Path(wav).relative_to(tmp_path).parts[0] for wav in own.dataset})
        assert found == [{"one"}, {"two"}, {"one"}]
        assert places[0] == places[2] != places[1]
        assert len(list((tmp_path / "run").iterdir())) == 2
        clip = TASKS[task].clips(configs["one"]).train[0]
        soundfile.write(clip, np.tile(soundfile.read(clip)[0], 2), 16000)
        prepare(args, configs["one"])
        assert len(list((tmp_path / "run").iterdir())) == 3
    finally:
        for name, value in before.items():
            setattr(dataset, name, value)


def test_sid_and_asv_cache_their_lists_in_the_experiments_folder(tmp_path):
    pytest.importorskip("sox")
    importlib.import_module("maeast_upstream.superb")
    sid = importlib.import_module("s3prl.downstream.voxceleb1.dataset")
    asv = importlib.import_module("s3prl.downstream.sv_voxceleb1.dataset")
    before = sid.CACHE_PATH, asv.__file__
    try:
        redirect_caches("voxceleb1", tmp_path / "a")
        redirect_caches("sv_voxceleb1", tmp_path / "b")
        redirect_caches("emotion", tmp_path / "c")
        assert str(tmp_path / "a") == sid.CACHE_PATH
        assert Path(asv.__file__).parent == tmp_path / "b"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    finally:
        sid.CACHE_PATH, asv.__file__ = before


@pytest.mark.parametrize(("options", "task", "works"), [
    ({}, "sv_voxceleb1", False),
    ({"hop_ms": 40}, "sv_voxceleb1", True),
    ({"repeat": 8}, "sv_voxceleb1", True),
    ({}, "separation_stft2", False),
    ({"hop_ms": 40}, "separation_stft2", True),
    ({}, "speech_commands", True),
])  # fmt: skip
def test_heads_that_need_shorter_time_steps_are_refused(options, task, works):
    from maeast_upstream.expert import UpstreamExpert
    from maeast_upstream.integrations.s3prl.checks import check_steps
    from maeast_upstream.integrations.s3prl.configs import config_path, read_config

    rate = UpstreamExpert(**options).get_downsample_rates()
    if works:
        check_steps(task, read_config(config_path(task)), rate)
    else:
        with pytest.raises(ValueError, match="2560 samples \\(160 ms\\)"):
            check_steps(task, read_config(config_path(task)), rate)


def test_too_few_time_steps_for_phones_are_a_warning(caplog):
    from maeast_upstream.integrations.s3prl.checks import check_steps

    check_steps("ctc", {}, 640)
    assert not caplog.records
    check_steps("ctc", {}, 2560)
    assert "fewer steps than phones" in caplog.text

"""s3prl's run_downstream with `mae_ast`: trains, resumes, evaluates; what cannot work is one line before it starts."""

import builtins
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hostile_checkpoints import archive, pickles

import maeast_upstream
from maeast_upstream import cli, load_model
from maeast_upstream.commands import convert, info
from maeast_upstream.expert import UpstreamExpert
from maeast_upstream.integrations.s3prl.repairs import install_repairs
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


def test_an_experiment_is_evaluated_from_another_folder_and_after_its_checkpoint_moved(here, data, monkeypatch, capfd):
    load_model().save_pretrained("mine")
    Path("mine.yaml").write_text("mel: mean")
    assert train(data, 2, "-k", "mine", "-g", "mine.yaml") == 0
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    evaluate = ["-m", "evaluate", "-e", str(here / "run" / "states-2.ckpt"), *CPU]
    assert main(evaluate) == 0
    assert list(Path().iterdir()) == []
    assert "test at step" in (here / "run" / "log.log").read_text()
    (here / "mine").rename(here / "moved")
    assert main(evaluate) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert f"no checkpoint '{here / 'mine'}'" in error
    assert f"was trained with -k {here / 'mine'} -g {here / 'mine.yaml'}: if it has moved" in error
    assert main([*evaluate, "-o", f"args.upstream_ckpt='{here / 'moved'}'"]) == 0


def test_what_was_fine_tuned_becomes_a_checkpoint_with_the_same_features(here, data, write_published, capfd):
    path = write_published("frame")
    assert train(data, 2, "-f", "-k", str(path), *override(data, 2, **{"config.optimizer.lr": 0.01})) == 0
    capfd.readouterr()
    assert cli.run(convert.main, ["run/states-2.ckpt", "-o", "tuned"]) == 0
    assert cli.run(convert.main, ["run/states-2.ckpt", "tuned.pt"]) == 0
    assert cli.run(convert.main, ["run/states-2.ckpt", "-o", "again", "--parent", str(path)]) == 0
    expert = UpstreamExpert(path).eval()
    expert.load_state_dict(load("run/states-2.ckpt")["Upstream"])
    clip = torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = expert([clip])["hidden_states"]
        before = UpstreamExpert(path).eval()([clip])["hidden_states"]
        for name in ("tuned", "tuned.pt", "again"):
            features = UpstreamExpert(name).eval()([clip])["hidden_states"]
            assert all(torch.equal(*pair) for pair in zip(features, expected, strict=True))
    assert not torch.equal(before[-1], expected[-1])
    assert load_model("tuned").config.provenance.parents[-1] == "run/states-2.ckpt"


def test_what_holds_no_fine_tuned_encoder_is_one_line(here, data, write_published, capfd):
    path = write_published("frame")
    path.rename("moved.pt")
    assert train(data, 1, "-k", "moved.pt") == 0
    assert train(data, 1, "-f", "-k", "moved.pt", expdir="tuned") == 0
    Path("moved.pt").rename("elsewhere.pt")
    torch.save({"a": 1}, "other.ckpt")
    torch.save({"Args": Path.touch, "Downstream": {}}, "evil.ckpt")
    Path("cut.ckpt").write_bytes(Path("tuned/states-1.ckpt").read_bytes()[:-1000])
    capfd.readouterr()
    for arguments, message in (
        (["run/states-1.ckpt", "-o", "out"], "trained without -f"),
        (
            ["tuned/states-1.ckpt", "-o", "out"],
            "began with '.*moved.pt', but no checkpoint .* give --parent CHECKPOINT",
        ),
        (["tuned/states-1.ckpt", "-o", "out", "--parent", "bundled"], "began with another checkpoint|has shape"),
        (["other.ckpt", "-o", "out"], "not a checkpoint of s3prl"),
        (["evil.ckpt", "-o", "out"], "nothing of it was run"),
        (["cut.ckpt", "-o", "out"], "broken"),
        (["elsewhere.pt", "-o", "out", "--parent", "bundled"], "--parent goes with a states-N.ckpt"),
        (["elsewhere.pt"], "give OUT once"),
        (["elsewhere.pt", "a", "-o", "out"], "give OUT once"),
    ):
        assert cli.run(convert.main, arguments) == 1, arguments
        error = capfd.readouterr().err
        assert error.count("\n") == 1, error
        assert re.search(message, error), error
        assert not Path("out").exists()
    assert cli.run(info.main, ["tuned/states-1.ckpt"]) == 1
    assert "maeast convert FILE -o FOLDER" in capfd.readouterr().err
    assert cli.run(convert.main, ["tuned/states-1.ckpt", "-o", "out", "--parent", "elsewhere.pt"]) == 0


def test_settings_that_only_the_task_reads_can_be_added(here, data):
    assert train(data, 1, *override(data, 1, **{"config.runner.fp16": False, "config.optimizer.eps": 1e-7})) == 0


def test_an_experiment_goes_on_in_its_own_folder_from_any_other(here, data, monkeypatch):
    assert train(data, 1) == 0
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert main(["-m", "train", "-e", str(here / "run"), *CPU, *override(data, 2)]) == 0
    assert list(Path().iterdir()) == []
    assert [path.name for path in (here / "run").glob("states-*.ckpt")] == ["states-2.ckpt"]


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


def test_started_by_its_path_in_a_copy_that_is_not_installed_it_finds_its_configs(here):
    root = Path(maeast_upstream.__file__).parents[1]
    shutil.copytree(root / "maeast_upstream", "maeast_upstream", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "configs", "configs")
    Path("start.py").write_text(UNINSTALLED)
    done = subprocess.run(
        [sys.executable, "start.py", *TRAIN[:-4], "-n", "x", *CPU], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert "speech_commands_root: no such folder" in error, done.stderr


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


UNINSTALLED = """
import runpy, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "").lower()]
sys.path[:] = ["maeast_upstream", *(path for path in sys.path if "maeast" not in path)]
sys.argv[0] = "maeast_upstream/run_downstream.py"
runpy.run_path("maeast_upstream/run_downstream.py", run_name="__main__")
"""
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
    ([*TRAIN, "-l", "99"], "-l 99: layers are counted from 0 to 11"),
    ([*TRAIN, "-l", "-13"], "-l -13: layers are counted from 0 to 11"),
    ([*TRAIN, "-l", "last"], "-l 'last': expected the number of a layer"),
    ([*TRAIN, "-s", "nonsense"], "-s 'nonsense': mae_ast gives hidden_states and last_hidden_state"),
    ([*TRAIN, "-s", "last_hidden_state", "-l", "1"], "-l 1 picks one of hidden_states, but -s is last_hidden_state"),
    ([*TRAIN, "-o", "args.upstream_layer_selection=99"], "-l 99: layers are counted from 0 to 11"),
    ([*TRAIN, "-o", "config.optimizr.lr=1"], "the config has no 'optimizr'; did you mean optimizer?"),
    ([*TRAIN, "-o", "config.runner.total_step=1"], "has no 'total_step'; did you mean total_steps?"),
    ([*TRAIN, "-o", "config.downstream_expert.datarc.batchsize=1"], "has no 'batchsize'; did you mean batch_size?"),
    ([*TRAIN, "-o", "config.downstream_expert.datarc.batch_size=0"], "batch_size: expected a number of clips, got 0"),
    ([*TRAIN, "-o", "args.upstream_ckp='x'"], "s3prl has no such option; did you mean upstream_ckpt?"),
    ([*TRAIN, "-o", "optimizer.lr=1"], "a key begins with args. or config."),
    ([*TRAIN, "-o", "config.optimizer.lr"], "-o 'config.optimizer.lr': expected KEY=VALUE"),
    ([*TRAIN, "-o", "config.optimizer.lr=1,config.runner.total_steps=2"], "expected KEY=VALUE, several of them"),
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


@pytest.mark.parametrize("name", ["deep_key", "laughing_tag", "many_times", "bytearray", "objects"])
def test_a_hostile_checkpoint_of_an_experiment_takes_no_time(here, capfd, name):
    archive(here / "states-1.ckpt", pickles()[name])
    assert main([*TRAIN, "-e", "states-1.ckpt"]) == 1
    assert "error: states-1.ckpt: not a checkpoint of s3prl" in capfd.readouterr().err


def test_the_name_of_a_config_is_not_confused_with_a_folder(here, capfd):
    Path("emotion").mkdir()
    assert main([*TRAIN, "-c", "emotion"]) == 1
    assert "-d speech_commands needs" in capfd.readouterr().err


def test_the_time_step_of_an_exported_folder_is_checked_too(here, capfd, write_published):
    from maeast_upstream import cli
    from maeast_upstream.commands import export_s3prl

    assert cli.run(export_s3prl.main, [str(write_published("patch")), "hub"]) == 0
    Path("hub/model.safetensors").write_bytes(b"not read for that")
    options = ["-m", "train", "--hub", "huggingface", "-u", "hub", "-d", "sv_voxceleb1", "-p", "run", *CPU]
    assert main(options) == 1
    assert "needs 16 time steps" in capfd.readouterr().err
    Path("fine.yaml").write_text("hop_ms: 40")
    assert main([*options, "-g", "fine.yaml"]) == 1
    assert "downstream_expert.datarc.file_path: no such" in capfd.readouterr().err

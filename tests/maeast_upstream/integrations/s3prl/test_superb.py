"""`mae_ast` in s3prl: the ways to ask for it, and s3prl's own wrappers around it."""

import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maeast_upstream import cli, load_model
from maeast_upstream.commands import export_s3prl, install_s3prl
from maeast_upstream.integrations.s3prl.checkout import FOLDER, LINE

pytest.importorskip("s3prl")
pytestmark = [pytest.mark.s3prl, pytest.mark.slow]
EDGES = [1, 400, 799, 800, 801, 879, 961, 1199, 2561, 5359, 7681, 7919, 16001, 40000]


@pytest.fixture(scope="module")
def nn():
    importlib.import_module("maeast_upstream.superb")
    return importlib.import_module("s3prl.nn")


@pytest.fixture(scope="module")
def hub(nn):
    return importlib.import_module("s3prl.hub")


def test_s3prl_lists_it_as_an_upstream(nn, hub):
    assert "mae_ast" in hub.options(only_registered_ckpt=True)
    assert "mae_ast" in nn.S3PRLUpstream.available_names()
    assert callable(hub.mae_ast_local)


def test_without_a_checkpoint_it_is_the_bundled_one(hub):
    upstream = hub.mae_ast(ckpt=None, model_config=None, refresh=False).eval()
    assert upstream.get_downsample_rates("hidden_states") == load_model().hop_samples


@pytest.mark.parametrize("options", [{}, {"hop_ms": 40}, {"repeat": 8}])
def test_s3prls_upstream_and_featurizer_take_every_length(nn, write_published, tokens, options):
    if tokens == "frame" and "hop_ms" in options:
        return
    model = nn.S3PRLUpstream("mae_ast", path_or_url=str(write_published(tokens)), extra_conf=options or None)
    model.eval()
    rate = model.downsample_rates[0]
    assert model.num_layers == 3
    assert {type(size) for size in [*model.hidden_sizes, *model.downsample_rates]} == {int}
    for lengths in [[length] for length in EDGES] + [EDGES, [300, 700]]:
        wavs = torch.nn.utils.rnn.pad_sequence([torch.randn(n) for n in lengths], batch_first=True)
        with torch.no_grad():
            states, state_lengths = model(wavs, torch.tensor(lengths))
        assert len(states) == 3
        assert state_lengths[0].tolist() == [-(-length // rate) for length in lengths]
        assert all(state.shape[1] == max(state_lengths[0]) for state in states)


@pytest.mark.parametrize("selections", [None, [0, 2]])
@pytest.mark.parametrize("normalize", [False, True])
def test_layers_can_be_selected_weighted_and_normalised(nn, write_published, selections, normalize):
    model = nn.S3PRLUpstream("mae_ast", path_or_url=str(write_published("patch")))
    model.eval()
    featurizer = nn.Featurizer(model, layer_selections=selections, normalize=normalize)
    assert (featurizer.output_size, featurizer.downsample_rate) == (8 * 48, 2560)
    wavs, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    with torch.no_grad():
        states, state_lengths = model(wavs, lengths)
    summed, _ = featurizer(states, state_lengths)
    expected = torch.stack([states[layer] for layer in selections or range(3)])
    if normalize:
        expected = torch.nn.functional.layer_norm(expected, expected.shape[-1:])
    assert torch.allclose(summed, expected.mean(0), atol=1e-5)
    summed.square().sum().backward()
    assert featurizer.weights.grad.abs().sum() > 0


def test_pseudo_wavs_go_forward_and_backward(nn, write_published, tokens):
    """`_test_forward_backward` of s3prl's test/test_upstream.py, through its own wrapper."""
    from s3prl.util.pseudo_data import get_pseudo_wavs

    model = nn.S3PRLUpstream("mae_ast", path_or_url=str(write_published(tokens)))
    for options in ({}, {"n": 1, "min_secs": 0.05, "max_secs": 0.05}, {"n": 2, "min_secs": 0.05, "max_secs": 0.05}):
        with torch.autograd.set_detect_anomaly(True):
            states, _ = model(*get_pseudo_wavs(**options, padded=True))
            sum(state.sum() for state in states).backward()


def test_pseudo_audio_is_written_and_read(nn):
    from s3prl.util.pseudo_data import pseudo_audio

    with pseudo_audio([1.0, 0.5]) as (paths, lengths):
        import torchaudio

        assert [torchaudio.load(path)[0].shape[1] for path in paths] == lengths == [16000, 8000]


def test_an_exported_folder_is_what_hub_huggingface_takes(write_published, tmp_path, capsys):
    path = write_published("patch")
    for _ in range(2):
        assert cli.run(export_s3prl.main, [str(path), str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "expert.py", "model.safetensors", "requirements.txt",
    ]  # fmt: skip
    code = """
import sys, torch
sys.path.append(sys.argv[1])
from expert import UpstreamExpert
model = UpstreamExpert(ckpt=sys.argv[1] + "/model.pt", model_config=None, refresh=False).eval()
torch.manual_seed(0)
print(model([torch.randn(16000)])["last_hidden_state"].abs().sum().item())
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=True)
    from maeast_upstream.expert import UpstreamExpert

    expert = UpstreamExpert(path).eval()
    torch.manual_seed(0)
    expected = expert([torch.randn(16000)])["last_hidden_state"].abs().sum().item()
    assert float(done.stdout) == pytest.approx(expected, rel=1e-6)
    (tmp_path / "out" / "other").touch()
    assert cli.run(export_s3prl.main, [str(path), str(tmp_path / "out")]) == 1
    assert "no export (other)" in capsys.readouterr().err
    assert cli.run(export_s3prl.main, [str(path), str(path)]) == 1
    assert "is a file" in capsys.readouterr().err


def test_a_used_export_is_replaced_and_its_command_is_quoted_for_a_shell(make_encoder, tmp_path, capsys):
    make_encoder().save_pretrained(tmp_path / "model")
    out = tmp_path / "my models" / "out"
    out.parent.mkdir()
    for _ in range(2):
        assert cli.run(export_s3prl.main, [str(tmp_path / "model"), str(out)]) == 0
        (out / "__pycache__").mkdir()
        (out / "__pycache__" / "expert.cpython-311.pyc").touch()
    line = capsys.readouterr().out.splitlines()[-1].partition(": ")[2]
    assert str(out) in shlex.split(line)


@pytest.fixture
def checkout(tmp_path):
    """s3prl as it is cloned: links to the installed one, but for what is written to."""
    import s3prl

    package = tmp_path / "s3prl" / "s3prl"
    (package / "upstream").mkdir(parents=True)
    installed = Path(s3prl.__file__).parent
    for source in [*installed.iterdir(), *(installed / "upstream").iterdir()]:
        place = package / source.relative_to(installed)
        if not place.exists() and source.name != "hub.py":
            place.symlink_to(source)
    shutil.copy(installed / "hub.py", package)
    return tmp_path / "s3prl"


def test_a_checkout_gets_mae_ast_and_loses_it_again(checkout):
    package = checkout / "s3prl"
    before = (package / "hub.py").read_bytes()
    for where in (checkout, package):
        assert cli.run(install_s3prl.main, [str(where)]) == 0
        assert (package / "hub.py").read_bytes() == LINE.encode() + before
    code = "import s3prl.hub as h; print(h.__file__); print(type(h.mae_ast(ckpt=None)).__name__, len(h.options()))"
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-2:] == [str(package / "hub.py"), "UpstreamExpert 197"]
    assert cli.run(install_s3prl.main, [str(checkout), "--remove"]) == 0
    assert (package / "hub.py").read_bytes() == before
    assert not (package / "upstream" / FOLDER).exists()


def test_if_another_s3prl_is_imported_the_user_learns_what_to_do(checkout, capsys, monkeypatch):
    assert cli.run(install_s3prl.main, [str(checkout)]) == 0
    said = capsys.readouterr().out
    import s3prl

    assert f"`import s3prl` is {Path(s3prl.__file__).parent}" in said
    assert f"pip install -e {checkout} --no-deps, or set PYTHONPATH={checkout}" in said
    assert cli.run(install_s3prl.main, [str(checkout), "--remove"]) == 0
    assert "import s3prl" not in capsys.readouterr().out
    spec = importlib.util.spec_from_file_location("s3prl", checkout / "s3prl" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert cli.run(install_s3prl.main, [str(checkout)]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_a_folder_that_is_no_checkout_is_refused(checkout, tmp_path, capsys):
    assert cli.run(install_s3prl.main, [str(tmp_path / "none")]) == 1
    assert "not a checkout of s3prl" in capsys.readouterr().err
    assert cli.run(install_s3prl.main, [str(checkout), "--remove"]) == 1
    assert "mae_ast is not installed" in capsys.readouterr().err

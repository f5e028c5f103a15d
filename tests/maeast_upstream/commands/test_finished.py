"""Running a command again on an output that is complete: no torch is loaded, and nothing is taken on trust."""

import json
import os
import subprocess
import sys

import pytest
import torch
from classifiers import random_classifier
from embed_runs import errors, rows

from maeast_upstream.checkpoint import save_published
from maeast_upstream.checkpoint.folder import Loaded
from maeast_upstream.checkpoint.identity import cache_path, identity_of
from maeast_upstream.cli import main
from maeast_upstream.fingerprint import fingerprint

AGAIN = """
import json, sys
from maeast_upstream.cli import main
statuses = [main(arguments) for arguments in json.loads(sys.argv[1])]
heavy = [name for name in ("torch", "pandas", "scipy", "huggingface_hub") if name in sys.modules]
print(json.dumps([statuses, heavy]))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def published(make_encoder, tmp_path):
    """A function that writes a checkpoint file of the published format; ``change`` is added to a weight."""
    model = make_encoder(shape={"decoder_dim": 32, "decoder_heads": 4, "decoder_ffn_dim": 64})

    def write(change=0.0):
        state = dict(model.network.state_dict())
        state["encoder_mask"] = state["encoder_mask"] + change
        save_published(tmp_path / "small.pt", Loaded(model.config, state))
        return tmp_path / "small.pt"

    return write


def again(*commands):
    """Run commands in a new process: their statuses, what they printed, and the heavy packages that they loaded."""
    text = json.dumps([list(map(str, command)) for command in commands])
    done = subprocess.run([sys.executable, "-c", AGAIN, text], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    statuses, heavy = json.loads(last)
    return statuses, lines, heavy


@pytest.mark.slow
def test_a_finished_output_loads_no_torch(folder, tmp_path):
    (folder / "broken.wav").write_text("nothing")
    random_classifier().save(tmp_path / "model")
    outputs = [["e.parquet", "--dims", "3"], ["parts"], ["files", "--format", "npy"]]
    commands = [["embed", folder, "-o", tmp_path / name, *options] for name, *options in outputs]
    labels = [["l.parquet"], ["found", "--format", "raven", "--window", "1"]]
    commands += [["predict", folder, "-m", tmp_path / "model", "-o", tmp_path / n, *rest] for n, *rest in labels]
    for command in commands:
        assert main(list(map(str, command))) == 3
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    statuses, lines, heavy = again(*commands)
    assert (statuses, heavy) == ([3] * len(commands), [])
    assert sum("is complete already" in line for line in lines) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == written


@pytest.mark.slow
def test_a_checkpoint_file_is_remembered_until_it_changes(folder, tmp_path, published):
    checkpoint = published()
    command = ["embed", folder, "-o", tmp_path / "e.parquet", "--checkpoint", checkpoint]
    assert main(list(map(str, command))) == 0
    assert again(command)[::2] == ([0], [])
    status = checkpoint.stat()
    published(change=0.5)
    os.utime(checkpoint, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert checkpoint.stat().st_size == status.st_size
    assert identity_of(checkpoint) is None
    statuses, _, heavy = again(command)
    assert statuses == [1]
    assert "torch" in heavy


def test_a_table_that_says_nothing_of_its_making_is_refused_without_torch(folder, tmp_path):
    (tmp_path / "model").mkdir()
    random_classifier().save(tmp_path / "model")
    (tmp_path / "e.parquet").write_text("precious")
    (tmp_path / "l.csv").write_text("precious")
    embed = ["embed", folder, "-o", tmp_path / "e.parquet"]
    statuses, _, heavy = again(embed, ["predict", folder, "-m", tmp_path / "model", "-o", tmp_path / "l.csv"])
    assert (statuses, heavy) == ([1, 1], [])


def test_what_is_remembered_of_a_file_is_its_identity(published, folder, tmp_path):
    checkpoint = published()
    assert identity_of(checkpoint) is None
    assert main(["embed", str(folder), "-o", str(tmp_path / "e.parquet"), "--checkpoint", str(checkpoint)]) == 0
    from maeast_upstream import load_model

    model = load_model(checkpoint)
    assert (identity_of(checkpoint).fingerprint, identity_of(checkpoint).config) == (fingerprint(model), model.config)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\x00", b'{"KEY": 1}', b'{"KEY": {"fingerprint": "f"}}'])
def test_a_damaged_cache_is_no_cache(published, content):
    from maeast_upstream.checkpoint.identity import stamp_of

    checkpoint = published()
    cache_path().parent.mkdir(parents=True)
    cache_path().write_bytes(content.replace(b"KEY", stamp_of(checkpoint).encode()))
    assert identity_of(checkpoint) is None


def test_a_pipe_in_place_of_the_cache_does_not_block(published):
    cache_path().parent.mkdir(parents=True)
    os.mkfifo(cache_path())
    assert identity_of(published()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_folder_has_the_same_fingerprint_without_torch(make_encoder, tmp_path, dtype):
    from maeast_upstream import load_model
    from maeast_upstream.checkpoint import save_folder

    model = make_encoder()
    save_folder(tmp_path / "model", model.network, model.config, dtype)
    assert identity_of(tmp_path / "model").fingerprint == fingerprint(load_model(tmp_path / "model"))


def test_weights_that_numpy_lacks_are_left_to_torch(make_encoder, tmp_path):
    from maeast_upstream.checkpoint import save_folder

    model = make_encoder()
    save_folder(tmp_path / "model", model.network, model.config, torch.bfloat16)
    assert identity_of(tmp_path / "model") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "3"], "was begun with layers ['mean'], not ['3']"),
        (["--layer", "99"], "layers are counted from 1 to 12, got 99"),
        (["--precision", "bf16"], "was begun with precision 'fp32', not 'bf16'"),
        (["--max-hours", "2"], "was begun with max_hours"),
        (["--checkpoint", "CHECKPOINT"], "was begun with weights"),
        (["--no-whiten"], "was begun with whitened True, not False"),
        (["--checkpoint", "nowhere"], "no checkpoint 'nowhere'"),
    ],
)
def test_another_setting_is_refused_in_one_line(folder, tmp_path, capsys, published, options, message):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out), "-q"]) == 0
    capsys.readouterr()
    options = [str(published()) if option == "CHECKPOINT" else option for option in options]
    assert main(["embed", str(folder), "-o", str(out), "-q", *options]) == 1
    error = errors(capsys)
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_changed_is_noticed(folder, tmp_path, capsys):
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "-o", str(out)]) == 0
    os.utime(next(folder.iterdir()))
    assert main(["embed", str(folder), "-o", str(out)]) == 1
    assert "files that it was made from have changed" in errors(capsys)
    assert len(rows(out)) == 6

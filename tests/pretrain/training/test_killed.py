"""A real process of `python -m pretrain`, killed, stopped, or run out of disk, and started again."""

import dataclasses
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from maeast_upstream import load_model
from maeast_upstream.audio.reading import read_audio
from pretrain.training.run_folder import states

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
AUDIO = ROOT / "tests" / "data" / "audio"


def write_manifest(path):
    """The repository's clips as fairseq lists them."""
    lines = [f"{clip.name}\t{len(read_audio(clip))}" for clip in sorted(AUDIO.glob("*.opus"))[:40]]
    path.write_text("\n".join([str(AUDIO), *lines]) + "\n")
    return path


@pytest.fixture
def make_recipe(recipe, tmp_path):
    """A recipe file of 60 batches that saves often, on manifest or packed data."""

    def make(kind="packed", **settings):
        data = dataclasses.replace(recipe.data, workers=1)
        if kind == "manifest":
            corpus = str(write_manifest(tmp_path / "clips.tsv"))
            data = dataclasses.replace(data, corpus=corpus, pack=False, packed=None)
        optim = dataclasses.replace(recipe.optim, steps=60, ema_decay=0.9)
        changed = dataclasses.replace(
            recipe,
            data=data,
            optim=optim,
            log_every=3,
            save_every=3,
            tensorboard=False,
            **{"validate_every": 6, **settings},
        )
        path = tmp_path / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(dataclasses.asdict(changed)))
        return path

    return make


@pytest.fixture
def start(launch):
    """A function that trains in another process; ``prelude`` is Python that runs before."""

    def start(path, out, prelude=""):
        code = "from maeast_upstream.cli import run\nfrom pretrain.cli import main\nraise SystemExit(run(main))"
        return launch([sys.executable, "-c", f"{prelude}\n{code}", "--config", str(path), "--out", str(out)])

    return start


def wait_for_save(process, out, after=-1):
    """Wait for a save past step ``after``, or the end of the process; whether there is one."""
    while newest(out) <= after and process.poll() is None:
        time.sleep(0.002)
    return newest(out) > after


def newest(out):
    paths = states(out)
    return int(paths[-1].stem) if paths else -1


def assert_same(one, other, path=""):
    """Bit-equal nested states."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key, value in one.items():
            if key != "out":
                assert_same(value, other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


def check_killed(start, path, tmp_path, kills):
    """How many kills fell into a run that was training."""
    draw = random.Random(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, said = start(path, whole).result()
    assert status == 0, said
    hit = 0
    for _ in range(kills):
        before = newest(killed)
        process = start(path, killed)
        wait_for_save(process, killed, before)
        time.sleep(draw.uniform(0, 0.05))
        hit += process.poll() is None
        process.kill()
        process.result()
    status, said = start(path, killed).result()
    assert status == 0, said
    one, other = (torch.load(states(out)[-1], weights_only=True) for out in (whole, killed))
    assert one["step"] >= 60
    assert_same(one, other)
    for part in ("last", "ema"):
        left, right = ((out / part / "model.safetensors").read_bytes() for out in (whole, killed))
        assert left == right
    losses = [
        [line.split('"lr"')[0] for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (whole, killed)
    ]
    assert losses[0] == losses[1]
    assert not list(killed.rglob("*.part*"))
    return hit


@pytest.mark.parametrize("kind", ["manifest", "packed"])
def test_killed_three_times_it_ends_with_bit_equal_weights(make_recipe, start, tmp_path, kind):
    assert check_killed(start, make_recipe(kind), tmp_path, 3) == 3


@pytest.mark.stress
@pytest.mark.parametrize("kind", ["manifest", "packed"])
def test_killed_twenty_times_it_ends_with_bit_equal_weights(make_recipe, start, tmp_path, kind):
    path = make_recipe(kind)
    settings = yaml.safe_load(path.read_text())
    settings["optim"]["steps"] = 400
    path.write_text(yaml.safe_dump(settings))
    assert check_killed(start, path, tmp_path, 20) >= 18


def test_sigterm_saves_and_ends_and_meanwhile_nobody_else_may_train_there(make_recipe, start, tmp_path):
    path, out = make_recipe(), tmp_path / "run"
    settings = yaml.safe_load(path.read_text())
    settings["optim"]["steps"] = 100_000
    path.write_text(yaml.safe_dump(settings))
    process = start(path, out)
    assert wait_for_save(process, out, 0)
    status, said = start(path, out).result()
    assert status == 1
    assert str(out) in said
    assert f"process {process.pid} on " in said
    assert "give another --out" in said
    assert said.count("\n") == 1
    process.send_signal(signal.SIGTERM)
    status, said = process.result()
    assert status == 130
    assert f"stopped at batch {newest(out)} and saved" in said
    assert load_model(out).config.provenance.steps == newest(out)


def test_a_full_disk_leaves_the_save_before(make_recipe, start, tmp_path):
    path, out = make_recipe(), tmp_path / "run"
    status, said = start(path, out, "import sys; sys.argv += ['--max_minutes', '1e-9']").result()
    assert status == 0, said
    saved = newest(out)
    limit = (states(out)[-1].stat().st_size * 2) // 3
    prelude = (
        # with the signal ignored writing raises, as on a full disk
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    )
    status, said = start(path, out, prelude).result()
    assert status == 1
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith(f"error: {out}: batch ")
    assert f"could not be saved (File too large); the save of batch {saved} stays: make room" in last
    assert newest(out) == saved
    assert load_model(out).config.provenance.steps == saved
    assert not list(out.rglob("*.part*"))
    status, said = start(path, out).result()
    assert status == 0, said
    assert newest(out) == 60

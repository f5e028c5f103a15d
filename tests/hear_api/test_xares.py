"""X-ARES's own checker and its run on a made-up task; needs xares, which `make test-xares` installs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from boards import read_labels, write_esc50
from hear_tasks import DATA

from hear_api.xares import MaeAstEncoder, load

pytestmark = pytest.mark.slow

CLASSES = ("kick", "snare", "tom", "six", "stop", "zero")


def test_the_encoder_says_of_itself_what_it_gives(make_encoder, tmp_path, tokens):
    make_encoder(tokens).save_pretrained(tmp_path / "model")
    encoder = MaeAstEncoder(tmp_path / "model")
    assert encoder.hop_size_in_ms == pytest.approx({"patch": 40.0, "frame": 20.0}[tokens])
    assert encoder.sampling_rate == 16000
    audio = torch.randn(2, 50_000)
    embeddings = encoder(audio)
    assert embeddings.shape[::2] == (2, encoder.output_dim)
    assert abs(embeddings.shape[1] * encoder.hop_size_in_ms - 3125) <= 160
    assert torch.allclose(encoder(audio[0]), embeddings[:1], atol=1e-4)


def test_the_environment_names_the_checkpoint(make_encoder, tmp_path, monkeypatch):
    make_encoder("frame").save_pretrained(tmp_path / "model")
    monkeypatch.setenv("MAEAST_CHECKPOINT", str(tmp_path / "model"))
    assert MaeAstEncoder().hop_size_in_ms == pytest.approx(20.0)


def test_scores_are_filed_by_weights_and_readout(make_encoder, tmp_path):
    """X-ARES takes the scores that it finds under the class's name."""
    make_encoder("patch").save_pretrained(tmp_path / "one")
    make_encoder("frame").save_pretrained(tmp_path / "two")
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    config = json.loads((tmp_path / "three" / "config.json").read_text())
    (tmp_path / "three" / "config.json").write_text(json.dumps(config | {"readout": {"layer": 2}}))
    encoders = [MaeAstEncoder(tmp_path / name) for name in ("one", "two", "three", "one")]
    names = [encoder.__class__.__name__ for encoder in encoders]
    assert len(set(names)) == 3
    assert names[0] == names[3]
    assert all(name.endswith("Encoder") for name in names)  # as its checker wants it
    assert all(isinstance(encoder, MaeAstEncoder) for encoder in encoders)


def test_audio_is_read_as_torchaudio_reads_it(tmp_path):
    torchaudio = pytest.importorskip("torchaudio")
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "two.wav", rng.uniform(-1, 1, (500, 2)), 8000)
    samples, rate = load(tmp_path / "two.wav")
    assert (samples.shape, samples.dtype, rate) == ((2, 500), torch.float32, 8000)
    try:
        expected, _ = torchaudio.load(tmp_path / "two.wav")
    except (ImportError, RuntimeError):
        return  # what the repair is for
    assert torch.allclose(samples, expected, atol=1e-4)


def test_xares_checker_passes():
    checker = pytest.importorskip("xares.audio_encoder_checker")
    assert checker.check_audio_encoder(MaeAstEncoder()) is True


def test_xares_runs_to_the_end_and_scores_better_than_chance(tmp_path):
    pytest.importorskip("xares")
    rows, _ = read_labels(DATA / "labels.csv", CLASSES)
    write_esc50(tmp_path / "env" / "esc50", rows)
    command = [
        sys.executable,
        "-m",
        "xares.run",
        "hear_api/xares.py",
        "tasks/esc50_task.py",
        "--max-jobs",
        "0",
    ]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Empty dataloader" not in done.stdout
    mlp, knn = map(float, re.search(r"ESC-50 +([\d.]+) +([\d.]+)", done.stdout).groups())
    print(f"X-ARES on {len(CLASSES)} classes of tests/data as ESC-50: MLP {mlp:.3f}, kNN {knn:.3f}")
    assert knn > 0.5  # of six classes; its MLP gets ten epochs of two steps here

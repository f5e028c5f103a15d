"""What several tests share: a decoded corpus, a recipe that trains in a second, processes that end with their test."""

import os
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
import torch
from small import small_config

from maeast_upstream.config import EncoderConfig
from maeast_upstream.encoder import Encoder
from pretrain.config import DataConfig, LossConfig, MaskConfig, OptimConfig
from pretrain.data.clips import open_packed_clips
from pretrain.data.packing import pack
from pretrain.recipe import Recipe
from pretrain.targets.clustering import write_clusters

ROOT = Path(__file__).parents[2]
AUDIO = ROOT / "tests" / "data" / "audio"
MARK = "MAEAST_TEST_PROCESS"


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    pack(AUDIO, folder, workers=0)
    return folder


@pytest.fixture(scope="session")
def small_encoder():
    """An earlier model of random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderConfig(model=small_config())).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def clusters(packed, small_encoder, tmp_path_factory):
    """The folder of 12 clusters of the second layer of the earlier model."""
    folder = tmp_path_factory.mktemp("targets") / "clusters"
    clips = open_packed_clips(packed, check=True)
    write_clusters(folder, small_encoder, "a model", clips, 2, 12, sample=2000, seed=0)
    return folder


@pytest.fixture
def recipe(tmp_path, packed):
    return Recipe(
        out=str(tmp_path / "run"),
        precision="fp32",
        device="cpu",
        log_every=2,
        save_every=3,
        model=small_config(dropout=0.1, layerdrop=0.1),
        data=DataConfig(
            corpus=str(AUDIO),
            packed=str(packed),
            crop_seconds=0.5,
            batch_clips=4,
            workers=0,
            mix=True,
        ),
        masking=MaskConfig(chunk_share=0.5),
        losses=LossConfig(clip=1.0),
        optim=OptimConfig(lr=1e-3, steps=6, warmup_steps=2, decay_steps=2),
    )


class Process(subprocess.Popen):
    """A command that runs in the repository with one thread."""

    def __init__(self, command, mark):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (a pipe that nobody reads would stop the process)
        env = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark}
        super().__init__(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self.log, text=True, env=env)

    def result(self):
        """Exit status and standard error at its end, however long that takes: pytest has a time limit."""
        status = self.wait()
        self.log.seek(0)
        return status, self.log.read()


@pytest.fixture
def launch():
    """A function that starts a command in the repository; whatever it started is killed when the test ends.

    The processes are found by a mark in their environment, because torchrun moves its workers to sessions of their own.
    """
    mark = uuid.uuid4().hex

    yield lambda command: Process(command, mark)
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)


def marked_processes(mark):
    """The living processes whose environment holds the mark."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in environment.read_bytes().split(b"\0"):
                yield int(environment.parent.name)
        except OSError:  # it ended, or belongs to somebody else
            continue

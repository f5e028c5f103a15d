"""Small models, real clips and a reference checkpoint that several test files share."""

import logging
import random
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import soundfile
import torch
from small import small_config

from maeast_upstream.cli import PACKAGES
from maeast_upstream.config import EncoderConfig, Normalisation
from maeast_upstream.encoder import Encoder

DATA = Path(__file__).parent / "data"
PRETRAIN = Path(__file__).parent / "pretrain"
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(params=["patch", "frame"])
def tokens(request):
    return request.param


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Gives a test the same random numbers in every run, whichever tests ran before it."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def all_messages():
    """Ends ``-q`` and ``-v`` of a test that runs commands in this process: they set what later tests would log."""
    yield
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.fixture
def make_encoder():
    """A function that builds a small encoder with random weights, frozen as `load_model` returns one."""

    def make(tokens="patch", **options):
        torch.manual_seed(0)
        shape = options.pop("shape", {})
        config = EncoderConfig(
            model=small_config(tokens, **shape),
            normalisation=Normalisation(mean=-6.0, std=4.0),
        )
        return Encoder(config, **options).eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def clips():
    """Real clips of different lengths as 16 kHz tensors."""
    paths = sorted((DATA / "audio").glob("*.opus"))[::12]
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]


@pytest.fixture(scope="session")
def long_clip():
    return torch.from_numpy(soundfile.read(DATA / "audio" / "long_drums.opus", dtype="float32")[0])


@pytest.fixture(scope="session")
def write_published(tmp_path_factory):
    """A function that writes a checkpoint through s3prl's own classes, in the published format."""
    pytest.importorskip("s3prl")
    from reference import BASE_PATCH, TASK
    from s3prl.upstream.mae_ast.mae_ast import MAE_AST

    def write(tokens="patch", seed=0, **settings):
        size = {"time": 16, "chan": 16} if tokens == "patch" else {"time": 2, "chan": 128}
        kernel = {f"ast_kernel_{what}_{axis}": value for what in ("size", "stride") for axis, value in size.items()}
        encoder = {
            "encoder_layers": 3,
            "encoder_embed_dim": 48,
            "encoder_ffn_embed_dim": 96,
        }
        small = {**encoder, "encoder_attention_heads": 4, "decoder_embed_dim": 48}
        model = {**BASE_PATCH, **kernel, **small, **settings}
        torch.manual_seed(seed)
        network = MAE_AST(SimpleNamespace(**model), SimpleNamespace(**TASK))
        network.batch_norm.running_mean.fill_(-5.2 + 0.1 * seed)
        network.batch_norm.running_var.fill_(19.4 - seed)
        network.batch_norm.num_batches_tracked.fill_(123)
        path = tmp_path_factory.mktemp("published") / f"{tokens}{seed}.pt"
        torch.save({"cfg": {"model": model, "task": TASK}, "model": network.state_dict()}, path)
        return path

    return write


@pytest.hookimpl(tryfirst=True)  # before -m selects tests by their marks
def pytest_collection_modifyitems(items):
    """Skip the tests that need a GPU where there is none; mark files whose tests fork, and put them first.

    torch's DataLoader forks, in pretraining and in s3prl's tasks, and a forked process hangs if its parent has threads
    of an engine, Ray or numba. Slow files come before others, so that the processes of `make test` end together.
    """
    forking = {item.path for item in items if PRETRAIN in item.path.parents or item.get_closest_marker("s3prl")}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    for item in items:
        if item.path in forking:
            item.add_marker("forks")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    items.sort(key=lambda item: (PRETRAIN not in item.path.parents, item.path not in forking, item.path not in slow))

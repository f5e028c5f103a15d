"""Each repair: gives back what is missing, leaves alone what is there."""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from maeast_upstream.integrations.s3prl import repairs

torchaudio = pytest.importorskip("torchaudio")
s3prl = pytest.importorskip("s3prl")
hub = importlib.import_module("huggingface_hub")
pytestmark = pytest.mark.s3prl


def test_a_second_call_does_nothing():
    repairs.install_repairs()
    assert repairs.install_repairs() == []


@pytest.mark.parametrize(("repair", "owner", "name"), [
    ("audio_backend", torchaudio, "set_audio_backend"),
    ("info", torchaudio, "info"),
    ("hub_login", hub.HfApi, "login"),
])  # fmt: skip
def test_missing_functions_are_restored_and_existing_ones_stay(monkeypatch, repair, owner, name):
    repair = getattr(repairs, repair)
    mark = object()
    monkeypatch.setattr(owner, name, mark, raising=False)
    assert not repair()
    assert getattr(owner, name) is mark
    monkeypatch.delattr(owner, name)
    assert repair()
    assert callable(getattr(owner, name))


def test_setting_the_backend_does_nothing(monkeypatch):
    monkeypatch.delattr(torchaudio, "set_audio_backend", raising=False)
    repairs.audio_backend()
    assert torchaudio.set_audio_backend("sox_io") is None


@pytest.mark.parametrize("works", [True, False])
def test_sox_effects_come_back_where_they_do_not_work(monkeypatch, works):
    def effect_names():
        if not works:
            raise OSError("libsox.so: cannot open shared object file")

    there = ModuleType("torchaudio.sox_effects")
    there.effect_names = effect_names
    monkeypatch.setattr(torchaudio, "sox_effects", there, raising=False)
    monkeypatch.setitem(sys.modules, "torchaudio.sox_effects", there)
    assert repairs.sox_effects() is not works
    assert (importlib.import_module("torchaudio.sox_effects") is there) is works
    assert callable(torchaudio.sox_effects.apply_effects_file) if not works else True


@pytest.fixture
def without_catalyst(monkeypatch):
    """An environment without catalyst, as pip makes it from 24.1 on."""
    for name in [name for name in sys.modules if name.split(".")[0] == "catalyst"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("catalyst", "catalyst.data", "catalyst.data.sampler"):
        monkeypatch.setitem(sys.modules, name, None)  # so that monkeypatch removes what the repair adds
        del sys.modules[name]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "catalyst" else find_spec(name))


def test_processes_share_what_a_sampler_draws_without_catalyst(without_catalyst):
    assert repairs.catalyst_sampler()
    assert not repairs.catalyst_sampler()
    wrapper = importlib.import_module("catalyst.data.sampler").DistributedSamplerWrapper
    drawn = [3, 1, 1, 0, 2, 3]
    shares = [list(wrapper(drawn, num_replicas=2, rank=rank)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == 3
    assert sorted(shares[0] + shares[1]) == sorted(drawn)


@pytest.fixture
def without_torchcodec(monkeypatch):
    """torchaudio as it is from 2.9 on."""
    monkeypatch.delattr(torchaudio, "list_audio_backends", raising=False)
    monkeypatch.setattr(torchaudio, "load", None)
    monkeypatch.setattr(torchaudio, "save", None)
    monkeypatch.setattr(repairs, "_torchcodec_works", lambda: False)


def test_files_are_read_and_written_without_torchcodec(without_torchcodec, tmp_path):
    assert repairs.load_and_save()
    wav = 3 * torch.randn(2, 1000)  # beyond 1, as s3prl's pseudo audio
    torchaudio.save(str(tmp_path / "a.wav"), wav, sample_rate=8000)
    read, rate = torchaudio.load(str(tmp_path / "a.wav"))
    assert rate == 8000
    assert torch.equal(read, wav)
    part, _ = torchaudio.load(tmp_path / "a.wav", frame_offset=100, num_frames=50, channels_first=False)
    assert torch.equal(part, wav[:, 100:150].T)
    found = repairs._info(tmp_path / "a.wav")
    assert (found.num_frames, found.sample_rate, found.num_channels, found.bits_per_sample) == (1000, 8000, 2, 32)
    soundfile.write(tmp_path / "b.flac", np.zeros(10), 16000, subtype="PCM_24")
    assert repairs._info(tmp_path / "b.flac").bits_per_sample == 24
    with pytest.raises(RuntimeError, match="none.wav: cannot be read"):
        torchaudio.load(tmp_path / "none.wav")


def test_torchcodec_is_used_where_it_works(without_torchcodec, monkeypatch):
    monkeypatch.setattr(repairs, "_torchcodec_works", lambda: True)
    assert not repairs.load_and_save()
    assert torchaudio.load is None


def test_hub_classes_come_back(monkeypatch):
    monkeypatch.setattr(hub, "HfFolder", None, raising=False)
    monkeypatch.setattr(hub, "Repository", kept := object(), raising=False)
    assert repairs.hub_classes()
    assert hub.HfFolder.save_token(None) is None
    assert hub.Repository is kept
    monkeypatch.setattr(hub, "Repository", None)
    repairs.hub_classes()
    with pytest.raises(ValueError, match="--push_to_hf_hub needs"):
        hub.Repository(local_dir="x")
    assert not repairs.hub_classes()


def test_a_download_takes_the_old_arguments_and_local_folders(monkeypatch, tmp_path):
    calls = []

    def new(repo_id, *, revision=None, token=None, allow_patterns=None):
        calls.append((repo_id, revision, token, allow_patterns))
        return "there"

    monkeypatch.setattr(hub, "snapshot_download", new)
    assert repairs.hub_download()
    assert hub.snapshot_download("org/name", "main", use_auth_token=True) == "there"
    assert hub.snapshot_download("org/name", allow_patterns=["a"], token="t") == "there"
    assert calls == [("org/name", "main", None, None), ("org/name", None, "t", ["a"])]
    assert hub.snapshot_download(str(tmp_path), None, use_auth_token=True) == str(tmp_path)
    assert not repairs.hub_download()


def test_a_namespace_can_be_loaded_and_code_cannot(tmp_path):
    repairs.safe_globals()
    torch.save({"Args": argparse.Namespace(a=1)}, tmp_path / "states.ckpt")
    assert torch.load(tmp_path / "states.ckpt")["Args"].a == 1
    torch.save({"Args": SimpleNamespace(a=1)}, tmp_path / "other.ckpt")
    with pytest.raises(Exception, match="SimpleNamespace"):
        torch.load(tmp_path / "other.ckpt")


def test_prs_corpus_is_found_unless_s3prl_has_it(monkeypatch, tmp_path):
    ctc = importlib.import_module("s3prl.downstream.ctc")
    repairs.ctc_corpus()
    assert importlib.import_module("s3prl.downstream.ctc.corpus.libriphone").LibriPhoneDataset
    own = [folder for folder in ctc.__path__ if "overlay" not in folder]
    (tmp_path / "corpus").mkdir()
    monkeypatch.setattr(ctc, "__path__", [str(tmp_path)])
    monkeypatch.setattr(ctc.__spec__, "submodule_search_locations", [str(tmp_path)])
    assert not repairs.ctc_corpus()
    assert ctc.__path__ == [str(tmp_path)]
    monkeypatch.setattr(ctc.__spec__, "submodule_search_locations", own)
    monkeypatch.setattr(ctc, "__path__", list(own))
    assert repairs.ctc_corpus()
    assert ctc.__path__[0] == own[0]


@pytest.mark.parametrize("repair", repairs.REPAIRS, ids=lambda repair: repair.__name__)
def test_every_repair_names_files_of_s3prl_that_need_it(repair):
    named = re.findall(r"[\w/]+\.py", repair.__doc__)
    assert named
    for name in named:
        assert (Path(s3prl.__file__).parent / name).is_file(), name


def test_nothing_but_the_repairs_is_changed_in_s3prl():
    """The package on disk stays as pip put it there."""
    files = importlib.import_module("importlib.metadata").files("s3prl")
    changed = [f for f in files if f.suffix == ".py" and f.size and f.locate().stat().st_size != f.size]
    assert changed == []


def test_repairs_alone_do_not_load_the_hub():
    code = """
import sys
from maeast_upstream.superb_repairs import install_repairs
install_repairs()
print("s3prl.hub" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

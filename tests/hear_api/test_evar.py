"""EVAR's interface, restated: it is no package. Its base class, and how its programs call a representation."""

import importlib
import sys
import types

import pytest
import torch
from torch import nn


class Settings(dict):
    """EVAR's settings: a dictionary whose keys are attributes, too."""

    __getattr__ = dict.__getitem__


class BaseAudioRepr(nn.Module):
    """What a representation inherits in EVAR."""

    def __init__(self, cfg, filename_mode=False):
        super().__init__()
        self.cfg = Settings(cfg)
        self.aug_fn, self.filename_mode = None, filename_mode

    def precompute(self, device, data_loader):
        pass

    def set_augment_tf_feature_fn(self, aug_fn):
        self.aug_fn = aug_fn


@pytest.fixture
def evar(monkeypatch):
    package, base = types.ModuleType("evar"), types.ModuleType("evar.ar_base")
    package.ar_base, base.BaseAudioRepr = base, BaseAudioRepr
    for name, module in (("evar", package), ("evar.ar_base", base)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "hear_api.evar", raising=False)
    yield importlib.import_module("hear_api.evar")
    sys.modules.pop("hear_api.evar", None)


@pytest.fixture
def settings(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "model")
    width = encoder.embed([[0.0]]).shape[1]
    return Settings(weight_file=str(tmp_path / "model"), sample_rate=16_000, feature_d=width, return_filename=False)


def test_linear_evaluation_gets_a_vector_per_clip(evar, settings):
    representation = evar.AR_MaeAst(settings).to("cpu")
    representation.precompute("cpu", None)
    wrapped = nn.DataParallel(representation)
    wrapped.eval()
    assert wrapped.module.cfg.return_filename is False
    clips = torch.randn(3, 16_000) / 5
    with torch.no_grad():
        vectors = torch.vstack([wrapped(clips).detach().cpu(), wrapped(clips[:1])])
    assert vectors.shape == (4, settings.feature_d)
    torch.testing.assert_close(vectors[0], vectors[3], rtol=0, atol=1e-4)


def test_time_steps_come_last(evar, settings):
    representation = evar.AR_MaeAst(settings)
    clips = torch.randn(2, 16_000) / 5
    frames = representation.encode_frames(clips)
    assert frames.shape == (2, settings.feature_d, frames.shape[2])
    torch.testing.assert_close(frames.mean(dim=2), representation(clips), rtol=1e-4, atol=1e-4)


def test_fine_tuning_trains_all_of_it(evar, settings):
    representation = evar.AR_MaeAst(settings)
    representation.set_augment_tf_feature_fn(None)
    representation.train()
    representation(torch.randn(2, 16_000) / 5).square().mean().backward()
    layer = representation.backbone.network.encoder
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize(("name", "value"), [("feature_d", 768), ("sample_rate", 32_000)])
def test_settings_of_another_model_are_refused_in_one_line(evar, settings, name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
        evar.AR_MaeAst(Settings(settings, **{name: value}))


def test_without_a_weight_file_it_is_the_bundled_checkpoint(evar):
    assert evar.AR_MaeAst(Settings(weight_file="")).feature_d == 3072


def test_without_evar_the_message_says_where_to_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "evar", None)
    monkeypatch.delitem(sys.modules, "hear_api.evar", raising=False)
    with pytest.raises(ImportError, match="EVAR cannot be imported .* in the folder of its checkout"):
        importlib.import_module("hear_api.evar")

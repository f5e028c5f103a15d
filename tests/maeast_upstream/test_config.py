import dataclasses
import json

import pytest

from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.frontend import SSAST_FRONTEND
from maeast_upstream.model import ModelConfig, preset
from maeast_upstream.readout import Readout


@pytest.mark.parametrize("layer", [3, "all"])
def test_json_and_back_is_the_same(layer):
    config = EncoderConfig(
        model=preset("tiny", "frame", positions="none", dropout=0.25),
        frontend=SSAST_FRONTEND,
        normalisation=Normalisation(mean=-4.27, std=4.57),
        readout=Readout(layer=layer, mel="mean", pool="mean_std", hop_ms=40.0),
        provenance=Provenance(data="10 h of noise", steps=7, package="1.0", parents=["a", "b"]),
    )
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_missing_key_takes_its_default():
    assert EncoderConfig.from_dict({}) == EncoderConfig()
    assert EncoderConfig.from_dict({"model": {"depth": 6}}).model == dataclasses.replace(EncoderConfig().model, depth=6)


def test_a_whole_number_may_stand_for_a_real_one():
    mean = EncoderConfig.from_dict({"normalisation": {"mean": -4}}).normalisation.mean
    assert mean == -4.0
    assert isinstance(mean, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"modell": {}}, "unknown key 'modell'; it may have model, frontend"),
        (
            {"model": {"width": 3}},
            "model has unknown key 'width'; it may have patch_frames",
        ),
        ({"model": []}, "model must be a mapping, got list"),
        (None, "must be a mapping, got NoneType"),
        ({"model": {"depth": "12"}}, "model.depth must be int, got '12'"),
        ({"model": {"depth": 2.0}}, "model.depth must be int, got 2.0"),
        ({"model": {"depth": True}}, "model.depth must be int, got True"),
        ({"model": {"dropout": "0.1"}}, "model.dropout must be float, got '0.1'"),
        ({"model": {"dropout": False}}, "model.dropout must be float, got False"),
        ({"model": {"depth": 0}}, "model: depth must be at least 1, got 0"),
        (
            {"model": {"num_heads": 7}},
            "model: num_heads 7 does not divide embed_dim 768",
        ),
        (
            {"model": {"positions": "learned"}},
            "model.positions must be one of sinusoid, none, got 'learned'",
        ),
        (
            {"frontend": {"window": "hamming"}},
            "frontend.window must be one of povey, hanning, got 'hamming'",
        ),
        ({"frontend": {"remove_mean": 1}}, "frontend.remove_mean must be bool, got 1"),
        (
            {"frontend": {"num_mel_bins": 64}},
            "model.num_mel_bins 128 is not the front end's 64",
        ),
        ({"normalisation": {"std": 0}}, "normalisation: std must be at least 0.001, got 0.0"),
        ({"normalisation": {"std": None}}, "normalisation.std must be float, got None"),
        ({"readout": {"layer": 1.5}}, "readout.layer must be int or str, got 1.5"),
        ({"readout": {"layer": 0}}, "readout: layers are counted from 1"),
        (
            {"readout": {"hop_ms": "native"}},
            "readout.hop_ms must be float or null, got 'native'",
        ),
        (
            {"readout": {"pool": ["mean"]}},
            "readout.pool must be one of mean, mean_max, mean_std",
        ),
        (
            {"provenance": {"parents": "a"}},
            "provenance.parents must be a list of strings, got 'a'",
        ),
        (
            {"provenance": {"parents": [1]}},
            r"provenance.parents must be a list of strings, got \[1\]",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(data, message):
    with pytest.raises(ValueError, match=message):
        EncoderConfig.from_dict(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_deviation_must_be_a_number_above_0(value):
    with pytest.raises(ValueError, match="std must be"):
        Normalisation(std=value)


@pytest.mark.parametrize("name", ["mean", "scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, -1e30, True, 10**400], ids=quote)
def test_the_normalization_cannot_make_every_feature_infinite(name, value):
    with pytest.raises(ValueError, match=name):
        Normalisation(**{name: value})


NO_SIZES = [-1, True, float("nan"), 2.5, 10**9, 10**5000, "1" * 10**6, [["x" * 1000] * 50]]
SIZES = [field.name for field in dataclasses.fields(ModelConfig) if field.type is int]


@pytest.mark.parametrize("name", [*SIZES, "dropout", "layerdrop"])
@pytest.mark.parametrize(
    "value", [-1, True, float("nan"), 2.5, 10**9, 10**5000, "1" * 10**6, [[[[["x" * 1000] * 50]]]]], ids=quote
)
def test_every_size_of_a_network_has_limits_and_the_message_is_short(name, value):
    with pytest.raises(ValueError, match=name) as caught:
        EncoderConfig.from_dict({"model": {name: value}, "frontend": {}})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("frontend", {"num_mel_bins": 16_000_000}),
        ("readout", {"hop_ms": float("inf")}),
        ("readout", {"layer": 10**30}),
        ("provenance", {"steps": 10**400}),
        ("provenance", {"steps": -1}),
        ("provenance", {"published": {"model": {"x": float("nan")}}}),
        ("provenance", {"published": {"model": {"x": [[[[[[1]]]]]]}}}),
        ("x" * 10**6, {}),
    ],
    ids=quote,
)
def test_numbers_that_no_config_has_are_refused_in_a_short_line(section, values):
    with pytest.raises(ValueError, match="config") as caught:
        EncoderConfig.from_dict({section: values})
    assert len(str(caught.value)) < 400

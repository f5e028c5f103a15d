"""The published format without s3prl: ours -> published -> ours, and everything that must not pass."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import small_config

from maeast_upstream import checkpoint
from maeast_upstream.checkpoint import published
from maeast_upstream.checkpoint.folder import validated
from maeast_upstream.cli import main
from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.model import MaeAst

ROWS = 64


def content_of(tokens="patch", **shape):
    """A published file's content, with few positions so that it is small."""
    torch.manual_seed(0)
    config = EncoderConfig(
        model=small_config(tokens, **shape),
        normalisation=Normalisation(mean=-5.2, std=4.4),
        provenance=Provenance(steps=123, published={"model": {"max_token_length": ROWS}}),
    )
    return published.to_published(config, MaeAst(config.model).state_dict())


def assert_same(one, other):
    assert one["cfg"] == other["cfg"]
    assert one["model"].keys() == other["model"].keys()
    for name, value in one["model"].items():
        assert value.dtype == other["model"][name].dtype
        assert torch.equal(value, other["model"][name]), name


@pytest.mark.parametrize(
    "shape",
    [{}, {"decoder_dim": 16}, {"positions": "none"}, {"decoder_depth": 0, "depth": 1}],
)
def test_there_and_back_is_the_same(tokens, shape):
    content = content_of(tokens, **shape)
    assert_same(content, published.to_published(*published.from_published(content)))


def test_a_decoder_of_cross_attention_has_no_published_form():
    with pytest.raises(ValueError, match="no decoder with cross-attention"):
        content_of(decoder_attention="cross")


def test_settings_that_only_the_published_class_reads_come_back(tmp_path):
    content = content_of()
    content["cfg"]["model"] |= {
        "random_mask_prob": 0.5,
        "mask_length": 4,
        "feature_grad_mult": 0,
    }
    content["cfg"]["task"]["mask_type"] = "chunk_mask"
    config, state = published.from_published(content)
    checkpoint.save_state(tmp_path / "ours", state, config)
    loaded = checkpoint.read(tmp_path / "ours")
    assert_same(content, published.to_published(loaded.config, loaded.state))


def test_a_layer_norm_that_weight_decay_changed_comes_back():
    content = content_of()
    content["model"]["layer_norm.weight"] = torch.rand(128)
    assert_same(content, published.to_published(*published.from_published(content)))


@given(st.floats(-30, 30, width=32), st.floats(0, 1000, width=32))
def test_batch_norm_statistics_come_back_bit_for_bit(mean, variance):
    state = {
        "batch_norm.running_mean": torch.tensor([mean]),
        "batch_norm.running_var": torch.tensor([variance]),
    }
    normalisation = published._pop_normalization(dict(state))
    normalisation = Normalisation(**json.loads(json.dumps(vars(normalisation))))
    assert torch.tensor([normalisation.mean]) == state["batch_norm.running_mean"]
    back = torch.tensor([normalisation.std**2 - published.BATCH_NORM_EPS])
    assert (back - state["batch_norm.running_var"]).abs() <= 1e-12


def test_positions_rounded_by_training_in_half_precision_are_known_as_what_they_are():
    content = content_of()
    for name in published.POSITIONS:
        content["model"][name] = content["model"][name].half().float()
    published.from_published(content)


def test_a_file_of_half_precision_is_float32_in_memory(tmp_path):
    content = content_of()
    content["model"] = {k: v.half() if v.is_floating_point() else v for k, v in content["model"].items()}
    torch.save(content, tmp_path / "half.pt")
    assert all(value.dtype == torch.float32 for value in checkpoint.read(tmp_path / "half.pt").state.values())


Q = "encoder.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (Q, lambda x: x[:, :5].clone(), rf"{Q} has shape \(32, 5\)"),
        (Q, lambda x: x[:5].clone(), rf"{Q} has shape \(5, 32\)"),
        (
            "final_proj_classification.weight",
            lambda x: x[1:].clone(),
            "classification_head.weight has shape",
        ),
        (
            "enc_sine_pos_embed.pe",
            lambda x: x[..., :4].clone(),
            "enc_sine_pos_embed.pe has shape",
        ),
        (
            "enc_sine_pos_embed.pe",
            lambda x: x[:, :9].clone(),
            "enc_sine_pos_embed.pe has shape",
        ),
        (
            "dec_sine_pos_embed.pe",
            lambda x: x + 0.1,
            "dec_sine_pos_embed.pe is not the sinusoid",
        ),
        ("layer_norm.weight", lambda x: x[:7].clone(), "layer_norm.weight has shape"),
        (
            "batch_norm.num_batches_tracked",
            lambda x: x.repeat(3),
            "num_batches_tracked has shape",
        ),
        ("batch_norm.num_batches_tracked", lambda x: x / 0.0, "num_batches_tracked holds torch.float32"),
        ("batch_norm.num_batches_tracked", lambda x: x - 10**6, "steps must be at least 0"),
        ("batch_norm.running_mean", lambda x: x * 1e30, "mean must be at"),
        ("batch_norm.running_var", lambda x: x * 1e30, "std must be at most"),
        ("layer_norm.bias", lambda x: x + torch.inf, "layer_norm.bias holds NaN or infinite"),
        ("encoder_mask_emb", lambda x: torch.full_like(x, 3e38), "encoder_mask holds values from 3e.38"),
        ("batch_norm.running_var", lambda x: -x, "running_var is -"),
        ("batch_norm.running_var", lambda x: x * torch.nan, "running_var is nan"),
        ("batch_norm.running_mean", lambda x: x.repeat(2), "running_mean has shape"),
        ("encoder_mask_emb", lambda x: x.to("meta"), "not a mapping of tensors"),
        ("encoder_mask_emb", lambda x: x.to_sparse(), "not a mapping of tensors"),
        (
            "encoder_mask_emb",
            lambda x: x[:1].clone().expand(1 << 40),
            "in a storage of 1 values",
        ),
        ("encoder_mask_emb", lambda x: x.long(), "encoder_mask holds torch.int64"),
        ("encoder_mask_emb", lambda x: x + 1j, "encoder_mask holds torch.complex64"),
        ("encoder_mask_emb", lambda x: x / 0, "encoder_mask holds NaN or infinite"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, name, change, message):
    content = content_of()
    content["model"][name] = change(content["model"][name])
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=message):
        checkpoint.read(tmp_path / "wrong.pt")


@pytest.mark.parametrize("name", sorted(content_of("frame", depth=1, decoder_depth=1)["model"]))
def test_each_tensor_is_needed(name):
    content = content_of("frame", depth=1, decoder_depth=1)
    del content["model"][name]
    with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
        published.from_published(content)


SETTINGS = [(part, name) for part, section in content_of()["cfg"].items() for name in section]


@pytest.mark.parametrize(("part", "name"), SETTINGS)
@pytest.mark.parametrize("value", ["text", 3.5, None, [1], torch.tensor([1, 2]), -1, 10**9, float("nan")])
def test_a_wrong_setting_is_one_clear_line_or_does_not_matter(part, name, value):
    content = content_of("frame", depth=1, decoder_depth=1)
    content["cfg"][part][name] = value
    try:
        config, state = published.from_published(content)
        validated("file", config, state)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        unused = name in published.UNUSED[part] and name != "max_token_length"
        assert unused or name in published.DROPOUTS.values() or (name, value) == ("feature_rate", 100)


def test_an_unexpected_tensor_is_named():
    content = content_of()
    content["model"]["mask_emb"] = torch.zeros(3)
    with pytest.raises(ValueError, match="unexpected tensor 'mask_emb'"):
        published.from_published(content)


def test_the_content_itself_is_left_as_it_was():
    content = content_of()
    before = copy.deepcopy(content)
    published.from_published(content)
    assert_same(before, content)


@pytest.mark.parametrize(
    "kept",
    [
        {"model": 3},
        {"model": {"max_token_length": "x"}},
        {"layer_norm": {"weight": "x"}},
    ],
)
def test_a_damaged_config_json_is_refused_on_the_way_to_a_published_file(kept):
    config = EncoderConfig(model=small_config(), provenance=Provenance(published=kept))
    with pytest.raises(ValueError, match="provenance.published"):
        published.to_published(config, MaeAst(config.model).state_dict())


def test_a_deviation_that_batch_norm_cannot_have_is_refused():
    config = EncoderConfig(model=small_config(), normalisation=Normalisation(std=0.001))
    with pytest.raises(ValueError, match="no standard deviation below"):
        published.to_published(config, MaeAst(config.model).state_dict())


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_convert_refuses_what_would_be_lost(make_encoder, tmp_path, capsys):
    make_encoder().save_pretrained(tmp_path / "model")
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "thesis.tex").touch()
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "things"), "--force"]) == 1
    assert "other than a checkpoint" in one_line(capsys)
    assert (tmp_path / "things" / "thesis.tex").exists()
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "nowhere" / "x.pt")]) == 1
    assert "no such folder" in one_line(capsys)
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "x.pt"), "--half"]) == 1
    assert "--half is for a folder" in one_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "things"]


def test_the_weights_without_their_folder_are_answered_with_the_remedy(make_encoder, tmp_path, capsys):
    make_encoder().save_pretrained(tmp_path / "model")
    assert main(["info", str(tmp_path / "model" / "model.safetensors")]) == 1
    assert "give the folder" in one_line(capsys)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("model", "feature_grad_mult", float("nan")),
        ("model", "mask_selection", "x" * 10**6),
        ("model", "mask_length", 10**30),
        ("model", "encoder_layers", 10**9),
        ("model", "encoder_embed_dim", 10**5000),
        ("model", "encoder_layers", 12.0),
        ("model", "encoder_layers", True),
        ("model", "dropout", float("nan")),
        ("model", "dropout", 10**5000),
        ("task", "feature_dim", 16_000_000),
        ("task", "sample_rate", 10**5000),
        ("model", "max_token_length", 10**30),
        ("model", "activation_fn", "y" * 10**6),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_an_absurd_setting_is_refused_in_a_short_line(tmp_path, section, name, value):
    content = content_of()
    content["cfg"][section][name] = value
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="wrong.pt") as caught:
        checkpoint.read(tmp_path / "wrong.pt")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))

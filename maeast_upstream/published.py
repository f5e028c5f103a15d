"""The published checkpoint format: its keys and its settings, to ours and back, strictly.

Source: the published code (upstream/mae_ast of s3prl is a copy). Its files hold
``{"cfg": {"model": {...}, "task": {...}}, "model": state}``; fairseq adds more, which is not looked at.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig, sinusoid

State = dict[str, Tensor]

BATCH_NORM_EPS = 1e-5
STORED_POSITIONS = 48_000
LINEARS = {
    "patch_embed": "post_extract_proj",
    "decoder_embed": "post_enc_proj",
    "reconstruction_head": "final_proj_reconstruction",
    "classification_head": "final_proj_classification",
}
MASKS = {"encoder_mask": "encoder_mask_emb", "decoder_mask": "decoder_mask_emb"}
BLOCK = {
    "attention.out": "self_attn.out_proj",
    "attention_norm": "self_attn_layer_norm",
    "fc1": "fc1",
    "fc2": "fc2",
    "ffn_norm": "final_layer_norm",
}
POSITIONS = ("enc_sine_pos_embed.pe", "dec_sine_pos_embed.pe")
FIXED_MODEL = {
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "enc_conv_pos": False,
    "dec_conv_pos": False,
}
FIXED_TASK = {"sample_rate": 16_000, "feature_rate": 100}
UNUSED_MODEL = {
    "feature_grad_mult": 1.0,
    "decoder_layerdrop": 0.0,
    "random_mask_prob": 0.75,
    "mask_length": 10,
    "mask_selection": "static",
    "mask_other": 0,
    "no_mask_overlap": False,
    "mask_min_space": 0,
    "checkpoint_activations": False,
}
"""What the published class wants to read, but what no feature depends on."""


def from_published(content: Any) -> tuple[EncoderConfig, State]:
    """A published file's content -> our config and our network's state.

    Raises:
        ValueError: another model's file, a missing or unexpected tensor, or a setting that is not supported.
    """
    if not isinstance(content, Mapping) or not {"cfg", "model"} <= set(content):
        raise ValueError("not a MAE-AST checkpoint: expected entries cfg and model")
    cfg, state = content["cfg"], content["model"]
    if (
        not isinstance(cfg, Mapping)
        or not isinstance(cfg.get("model"), Mapping)
        or not isinstance(cfg.get("task"), Mapping)
    ):
        raise ValueError("not a MAE-AST checkpoint: expected cfg with sections model and task")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("not a MAE-AST checkpoint: its entry model is not a mapping of tensors")
    model = model_config(cfg["model"], cfg["task"])
    rest = dict(state)
    ours = _take_network(rest, model)
    config = EncoderConfig(
        model=model,
        frontend=FrontendConfig(num_mel_bins=model.num_mel_bins),
        normalisation=_take_normalisation(rest),
        provenance=Provenance(
            data="see the publisher (the paper's were trained on AudioSet and LibriSpeech)",
            steps=int(_take(rest, "batch_norm.num_batches_tracked")),
            parents=["published checkpoint"],
        ),
    )
    _drop_constants(rest, model)
    if rest:
        raise ValueError(f"unexpected tensor {sorted(rest)[0]!r} (and {len(rest) - 1} more)")
    return config, ours


def model_config(model: Mapping[str, Any], task: Mapping[str, Any]) -> ModelConfig:
    """``cfg.model`` and ``cfg.task`` -> ModelConfig; ValueError names a setting that is missing or not supported."""
    try:
        for section, fixed in ((model, FIXED_MODEL), (task, FIXED_TASK)):
            for name, value in fixed.items():
                if section[name] != value:
                    raise ValueError(f"setting {name} is {section[name]!r}; only {value!r} is supported")
        for axis in ("time", "chan"):
            if model[f"ast_kernel_size_{axis}"] != model[f"ast_kernel_stride_{axis}"]:
                raise ValueError(
                    f"ast_kernel_size_{axis} and ast_kernel_stride_{axis} differ: overlapping patches are not supported"
                )
        if model["enc_sine_pos"] != model["dec_sine_pos"]:
            raise ValueError("enc_sine_pos and dec_sine_pos differ: not supported")
        return ModelConfig(
            patch_frames=model["ast_kernel_size_time"],
            patch_mels=model["ast_kernel_size_chan"],
            num_mel_bins=task["feature_dim"],
            embed_dim=model["encoder_embed_dim"],
            depth=model["encoder_layers"],
            num_heads=model["encoder_attention_heads"],
            ffn_dim=model["encoder_ffn_embed_dim"],
            decoder_dim=model["decoder_embed_dim"],
            decoder_depth=model["decoder_layers"],
            decoder_heads=model["encoder_attention_heads"],
            decoder_ffn_dim=model["encoder_ffn_embed_dim"],
            positions="sinusoid" if model["enc_sine_pos"] else "none",
            dropout=float(model["dropout"]),
            attention_dropout=float(model["attention_dropout"]),
            activation_dropout=float(model["activation_dropout"]),
            input_dropout=float(model["dropout_input"]),
            layerdrop=float(model["encoder_layerdrop"]),
        )
    except KeyError as error:
        raise ValueError(f"not a MAE-AST checkpoint: its cfg lacks {error}") from error
    except TypeError as error:
        raise ValueError(f"not a MAE-AST checkpoint: a setting of the wrong type ({error})") from error


def to_published(config: EncoderConfig, state: State) -> dict[str, Any]:
    """The inverse of `from_published`.

    Raises:
        ValueError: the published class cannot be told of this decoder, front end or scale.
    """
    model = config.model
    if (model.decoder_ffn_dim, model.decoder_heads) != (model.ffn_dim, model.num_heads):
        raise ValueError(
            "the published format has one ffn width and number of heads for encoder and decoder: "
            f"this decoder has {model.decoder_ffn_dim} and {model.decoder_heads}, its encoder {model.ffn_dim} "
            f"and {model.num_heads}"
        )
    if config.frontend != FrontendConfig(num_mel_bins=model.num_mel_bins) or config.normalisation.scale != 0.5:
        raise ValueError("the published format has one front end (Povey window, mean kept) and scale 0.5")
    published = {
        "layer_norm.weight": torch.ones(model.num_mel_bins),
        "layer_norm.bias": torch.zeros(model.num_mel_bins),
        "batch_norm.running_mean": torch.tensor([config.normalisation.mean]),
        "batch_norm.running_var": torch.tensor([config.normalisation.std**2 - BATCH_NORM_EPS]),
        "batch_norm.num_batches_tracked": torch.tensor(config.provenance.steps),
    }
    if model.positions == "sinusoid":
        for name, dim in zip(POSITIONS, (model.embed_dim, model.decoder_dim), strict=True):
            published[name] = sinusoid(STORED_POSITIONS, dim)[None]
    published |= _give_network(state, model)
    return {"cfg": {"model": _cfg_model(model), "task": _cfg_task(model)}, "model": published}


def _cfg_model(model: ModelConfig) -> dict[str, Any]:
    sinusoid_used = model.positions == "sinusoid"
    return {
        **UNUSED_MODEL,
        **FIXED_MODEL,
        "ast_kernel_size_time": model.patch_frames,
        "ast_kernel_stride_time": model.patch_frames,
        "ast_kernel_size_chan": model.patch_mels,
        "ast_kernel_stride_chan": model.patch_mels,
        "encoder_embed_dim": model.embed_dim,
        "encoder_layers": model.depth,
        "encoder_attention_heads": model.num_heads,
        "encoder_ffn_embed_dim": model.ffn_dim,
        "decoder_embed_dim": model.decoder_dim,
        "decoder_layers": model.decoder_depth,
        "use_post_enc_proj": model.decoder_dim != model.embed_dim,
        "enc_sine_pos": sinusoid_used,
        "dec_sine_pos": sinusoid_used,
        "max_token_length": STORED_POSITIONS,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.activation_dropout,
        "dropout_input": model.input_dropout,
        "encoder_layerdrop": model.layerdrop,
    }


def _cfg_task(model: ModelConfig) -> dict[str, Any]:
    return {
        **FIXED_TASK,
        "feature_type": "fbank",
        "feature_dim": model.num_mel_bins,
        "mask_type": "random_mask",
    }


def _names(model: ModelConfig) -> dict[str, str]:
    """Our name -> the published one, for all tensors that are the same but for their name."""
    names = dict(MASKS)
    modules = {
        ours: theirs
        for ours, theirs in LINEARS.items()
        if ours != "decoder_embed" or model.decoder_dim != model.embed_dim
    }
    for stack, depth in (("encoder", model.depth), ("decoder", model.decoder_depth)):
        modules[f"{stack}.norm"] = f"{stack}.layer_norm"
        for i in range(depth):
            modules |= {f"{stack}.blocks.{i}.{ours}": f"{stack}.layers.{i}.{theirs}" for ours, theirs in BLOCK.items()}
    for ours, theirs in modules.items():
        names |= {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}
    return names


def _fused(model: ModelConfig) -> dict[str, list[str]]:
    """Our fused projections -> the three published ones, in the order of their rows."""
    return {
        f"{stack}.blocks.{i}.attention.qkv.{part}": [f"{stack}.layers.{i}.self_attn.{p}_proj.{part}" for p in "qkv"]
        for stack, depth in (("encoder", model.depth), ("decoder", model.decoder_depth))
        for i in range(depth)
        for part in ("weight", "bias")
    }


def _take(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"tensor {name!r} is missing")
    return state.pop(name)


def _take_network(state: dict[str, Tensor], model: ModelConfig) -> State:
    ours = {name: _take(state, theirs) for name, theirs in _names(model).items()}
    ours |= {name: torch.cat([_take(state, one) for one in theirs]) for name, theirs in _fused(model).items()}
    return ours


def _give_network(state: State, model: ModelConfig) -> State:
    published = {theirs: state[name] for name, theirs in _names(model).items()}
    for name, theirs in _fused(model).items():
        published |= dict(zip(theirs, (part.clone() for part in state[name].chunk(3)), strict=True))
    return published


def _take_normalisation(state: dict[str, Tensor]) -> Normalisation:
    mean, variance = (_take(state, f"batch_norm.running_{what}") for what in ("mean", "var"))
    if mean.numel() != 1 or variance.numel() != 1:
        raise ValueError("batch_norm has more than one channel: not supported")
    return Normalisation(mean=mean.item(), std=math.sqrt(variance.item() + BATCH_NORM_EPS))


def _drop_constants(state: dict[str, Tensor], model: ModelConfig) -> None:
    """Remove what holds no knowledge, after looking that it is what it must be."""
    for name, value in (("layer_norm.weight", 1.0), ("layer_norm.bias", 0.0)):
        if not (_take(state, name) == value).all():
            raise ValueError(f"{name} is not all {value:g}: the published network never uses it")
    if model.positions == "sinusoid":
        for name, dim in zip(POSITIONS, (model.embed_dim, model.decoder_dim), strict=True):
            stored = _take(state, name)
            if stored.dim() != 3 or not torch.allclose(stored[0], sinusoid(stored.shape[1], dim), atol=1e-4):
                raise ValueError(f"{name} is not the sinusoid of the published code")

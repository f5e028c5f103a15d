"""Converts the published checkpoint format to ours and back, strictly: its tensor names and its settings.

Source: the published code (upstream/mae_ast of s3prl is a copy). Its files hold
``{"cfg": {"model": {...}, "task": {...}}, "model": state}``; fairseq adds other entries, which are ignored.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maeast_upstream.checks import check_number, check_plain, quote
from maeast_upstream.config import EncoderConfig, Normalisation, Provenance
from maeast_upstream.frontend import FrontendConfig
from maeast_upstream.model import ModelConfig
from maeast_upstream.modules.positions import is_sinusoid, sinusoid

State = dict[str, Tensor]

ENTRIES = ("cfg", "model")
"""The entries of a file that are read."""
BATCH_NORM_EPS = 1e-5
STORED_POSITIONS = 48_000
MAX_POSITIONS = 1_000_000
MAX_TEXT = 1000
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
POSITIONS_TOLERANCE = 0.02
"""Allowed difference of stored positions to ours: float32 angles differ between machines by 0.003 at position 48,000,
and training in half precision rounds the stored ones."""
POSITIONS = ("enc_sine_pos_embed.pe", "dec_sine_pos_embed.pe")
DROPOUTS = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "dropout_input",
    "layerdrop": "encoder_layerdrop",
}
FIXED_MODEL = {
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "enc_conv_pos": False,
    "dec_conv_pos": False,
}
FIXED_TASK = {"sample_rate": 16_000, "feature_rate": 100}
UNUSED: dict[str, dict[str, Any]] = {
    "model": {
        "feature_grad_mult": 1.0,
        "decoder_layerdrop": 0.0,
        "random_mask_prob": 0.75,
        "mask_length": 10,
        "mask_selection": "static",
        "mask_other": 0.0,
        "no_mask_overlap": False,
        "mask_min_space": 0,
        "checkpoint_activations": False,
        "max_token_length": STORED_POSITIONS,
    },
    "task": {"feature_type": "fbank", "mask_type": "random_mask"},
}
"""Settings that the published class reads, with their defaults; no feature depends on them."""


def from_published(content: Any) -> tuple[EncoderConfig, State]:
    """Convert the content of a published file to our config and the state of our network.

    Raises:
        ValueError: The file is another model's, a tensor is missing or unexpected, or a setting is not supported.
    """
    if not isinstance(content, Mapping) or not set(ENTRIES) <= set(content):
        raise ValueError("not a MAE-AST checkpoint: expected entries cfg and model")
    cfg, state = content["cfg"], content["model"]
    if not isinstance(cfg, Mapping) or not all(isinstance(cfg.get(part), Mapping) for part in ("model", "task")):
        raise ValueError("not a MAE-AST checkpoint: expected cfg with sections model and task")
    if not isinstance(state, Mapping) or not all(map(_is_plain_tensor, state.values())):
        raise ValueError("not a MAE-AST checkpoint: its entry model is not a mapping of tensors")
    model = model_config(cfg["model"], cfg["task"])
    if model.depth + model.decoder_depth > len(state):
        raise ValueError(f"its cfg has {model.depth} + {model.decoder_depth} layers, but it has {len(state)} tensors")
    rest = dict(state)
    ours = _pop_network(rest, model)
    config = EncoderConfig(
        model=model,
        frontend=FrontendConfig(num_mel_bins=model.num_mel_bins),
        normalisation=_pop_normalization(rest),
        provenance=Provenance(
            data="see the publisher (the paper's were trained on AudioSet and LibriSpeech)",
            steps=_pop_steps(rest),
            parents=["published checkpoint"],
            published=_kept_settings(cfg) | {"layer_norm": _pop_layer_norm(rest, model)},
        ),
    )
    _check_positions(rest, model, _setting(cfg["model"], "max_token_length", int))
    if rest:
        raise ValueError(f"unexpected tensor {quote(min(map(str, rest)))} (and {len(rest) - 1} more)")
    return config, ours


def model_config(model: Mapping[str, Any], task: Mapping[str, Any]) -> ModelConfig:
    """Convert ``cfg.model`` and ``cfg.task``; a ValueError names a setting that is missing or not supported."""
    for section, fixed in ((model, FIXED_MODEL), (task, FIXED_TASK)):
        for name, expected in fixed.items():
            value = _setting(section, name, type(expected))
            if value != expected:
                raise ValueError(f"setting {name} is {quote(value)}; only {expected!r} is supported")
    for axis in ("time", "chan"):
        if _setting(model, f"ast_kernel_size_{axis}", int) != _setting(model, f"ast_kernel_stride_{axis}", int):
            raise ValueError(
                f"ast_kernel_size_{axis} and ast_kernel_stride_{axis} differ: overlapping patches are not supported"
            )
    sinusoid_used = _setting(model, "enc_sine_pos", bool)
    if sinusoid_used != _setting(model, "dec_sine_pos", bool):
        raise ValueError("enc_sine_pos and dec_sine_pos differ: not supported")
    width, decoder_width = (_setting(model, f"{stack}_embed_dim", int) for stack in ("encoder", "decoder"))
    if _setting(model, "use_post_enc_proj", bool) != (width != decoder_width):
        raise ValueError(
            f"use_post_enc_proj does not fit widths {quote(width)} and {quote(decoder_width)}: not supported"
        )
    dropouts: dict[str, Any] = {ours: float(_setting(model, theirs, float)) for ours, theirs in DROPOUTS.items()}
    return ModelConfig(
        patch_frames=_setting(model, "ast_kernel_size_time", int),
        patch_mels=_setting(model, "ast_kernel_size_chan", int),
        num_mel_bins=_setting(task, "feature_dim", int),
        embed_dim=width,
        depth=_setting(model, "encoder_layers", int),
        num_heads=(heads := _setting(model, "encoder_attention_heads", int)),
        ffn_dim=(ffn_dim := _setting(model, "encoder_ffn_embed_dim", int)),
        decoder_dim=decoder_width,
        decoder_depth=_setting(model, "decoder_layers", int),
        decoder_heads=heads,
        decoder_ffn_dim=ffn_dim,
        positions="sinusoid" if sinusoid_used else "none",
        **dropouts,
    )


def _setting(section: Mapping[str, Any], name: str, expected: type) -> Any:
    """Return a setting after checking its type; a whole number may stand for a real one."""
    if name not in section:
        raise ValueError(f"not a MAE-AST checkpoint: its cfg lacks {name!r}")
    value = section[name]
    if type(value) is not expected and not (expected is float and type(value) is int):
        raise ValueError(f"setting {name} is a {type(value).__name__}; expected {expected.__name__}")
    if expected in (int, float):
        check_number(f"setting {name}", value)
    return value


def _kept_settings(cfg: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that the published class reads and our config lacks; `to_published` writes them again.

    Raises:
        ValueError: One of them is NaN, infinite or endless, so that no config.json could hold it.
    """
    kept = {
        section: {name: cfg[section][name] for name in names if type(cfg[section].get(name)) in (bool, int, float, str)}
        for section, names in UNUSED.items()
    }
    for section in kept.values():
        for name, value in section.items():
            check_plain(f"setting {name}", value)
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise ValueError(f"setting {name} is a text of {len(value)} characters")
    return kept


def _is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor whose values are all in the file, so that no shape can ask for more memory."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type != "cpu":
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def to_published(config: EncoderConfig, state: State) -> dict[str, Any]:
    """Convert our config and state to the content of a published file: the inverse of `from_published`.

    Raises:
        ValueError: The published class has no setting for this decoder, front end or scale.
    """
    model = config.model
    if model.decoder_attention != "self":
        raise ValueError(f"the published format has no decoder with {model.decoder_attention}-attention")
    if (model.decoder_ffn_dim, model.decoder_heads) != (model.ffn_dim, model.num_heads):
        raise ValueError(
            "the published format has one ffn width and number of heads for encoder and decoder: "
            f"this decoder has {model.decoder_ffn_dim} and {model.decoder_heads}, its encoder {model.ffn_dim} "
            f"and {model.num_heads}"
        )
    if config.frontend != FrontendConfig(num_mel_bins=model.num_mel_bins) or config.normalisation.scale != 0.5:
        raise ValueError("the published format has one front end (Povey window, mean kept) and scale 0.5")
    variance = config.normalisation.std**2 - BATCH_NORM_EPS
    if variance < 0:
        raise ValueError(f"the published format has no standard deviation below {math.sqrt(BATCH_NORM_EPS):.5f}")
    cfg, layer_norm = _restored(config.provenance.published, model)
    cfg["model"] |= _cfg_model(model)
    cfg["task"] |= _cfg_task(model)
    published = {
        **layer_norm,
        "batch_norm.running_mean": torch.tensor([config.normalisation.mean]),
        "batch_norm.running_var": torch.tensor([variance]),
        "batch_norm.num_batches_tracked": torch.tensor(config.provenance.steps),
    }
    if model.positions == "sinusoid":
        rows = cfg["model"]["max_token_length"]
        for name, dim in zip(POSITIONS, (model.embed_dim, model.decoder_dim), strict=True):
            published[name] = sinusoid(rows, dim)[None]
    published |= _published_network(state, model)
    return {"cfg": cfg, "model": published}


def _restored(kept: Mapping[str, Any], model: ModelConfig) -> tuple[dict[str, dict[str, Any]], State]:
    """Return the settings and the unused layer that were kept of a published file, or else the published defaults."""
    bins = model.num_mel_bins
    try:
        cfg = {section: {**defaults, **kept.get(section, {})} for section, defaults in UNUSED.items()}
        values = {"weight": [1.0] * bins, "bias": [0.0] * bins, **kept.get("layer_norm", {})}
        layer_norm = {f"layer_norm.{name}": torch.tensor(value) for name, value in values.items()}
        if cfg["model"]["max_token_length"] not in range(1, MAX_POSITIONS):
            raise ValueError("max_token_length")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"provenance.published in its config.json is not as it was written ({error})") from error
    return cfg, layer_norm


def _cfg_model(model: ModelConfig) -> dict[str, Any]:
    sinusoid_used = model.positions == "sinusoid"
    return {
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
        **{theirs: getattr(model, ours) for ours, theirs in DROPOUTS.items()},
    }


def _cfg_task(model: ModelConfig) -> dict[str, Any]:
    return {**FIXED_TASK, "feature_dim": model.num_mel_bins}


def _names(model: ModelConfig) -> dict[str, str]:
    """Map our names to the published ones, for all tensors that differ in their name only."""
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
    """Map our fused projections to the three published ones, in the order of their rows."""
    return {
        f"{stack}.blocks.{i}.attention.qkv.{part}": [f"{stack}.layers.{i}.self_attn.{p}_proj.{part}" for p in "qkv"]
        for stack, depth in (("encoder", model.depth), ("decoder", model.decoder_depth))
        for i in range(depth)
        for part in ("weight", "bias")
    }


def _pop(state: dict[str, Tensor], name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    if name not in state:
        raise ValueError(f"tensor {name!r} is missing")
    if shape is not None and state[name].shape != shape:
        raise ValueError(f"{name} has shape {tuple(state[name].shape)}; its cfg expects {quote(shape)}")
    return state.pop(name)


def _pop_steps(state: dict[str, Tensor]) -> int:
    steps = _pop(state, "batch_norm.num_batches_tracked", ())
    if steps.is_floating_point() or steps.is_complex():
        raise ValueError(f"batch_norm.num_batches_tracked holds {steps.dtype}; expected a whole number")
    return int(steps.item())


def _pop_network(state: dict[str, Tensor], model: ModelConfig) -> State:
    ours = {name: _pop(state, theirs) for name, theirs in _names(model).items()}
    for name, theirs in _fused(model).items():
        dim = model.embed_dim if name.startswith("encoder.") else model.decoder_dim
        shape = (dim, dim) if name.endswith("weight") else (dim,)
        ours[name] = torch.cat([_pop(state, part, shape) for part in theirs])
    return ours


def _published_network(state: State, model: ModelConfig) -> State:
    published = {theirs: state[name] for name, theirs in _names(model).items()}
    for name, theirs in _fused(model).items():
        published |= dict(zip(theirs, (rows.clone() for rows in state[name].chunk(3)), strict=True))
    return published


def _pop_normalization(state: dict[str, Tensor]) -> Normalisation:
    mean, variance = (_pop(state, f"batch_norm.running_{statistic}", (1,)).item() for statistic in ("mean", "var"))
    if not variance >= 0:
        raise ValueError(f"batch_norm.running_var is {variance}")
    return Normalisation(mean=mean, std=math.sqrt(variance + BATCH_NORM_EPS))


def _pop_layer_norm(state: dict[str, Tensor], model: ModelConfig) -> dict[str, list[float]]:
    """Return the values of the unused layer that differ from their initial ones, for example by weight decay."""
    kept = {}
    for name, initial in (("weight", 1.0), ("bias", 0.0)):
        value = _pop(state, f"layer_norm.{name}", (model.num_mel_bins,))
        if not value.isfinite().all():
            raise ValueError(f"layer_norm.{name} holds NaN or infinite values")
        if not (value == initial).all():
            kept[name] = value.tolist()
    return kept


def _check_positions(state: dict[str, Tensor], model: ModelConfig, rows: int) -> None:
    """Remove the stored positions from the state; ValueError if they are not the sinusoid that our network computes."""
    checked: Tensor | None = None
    dims = (model.embed_dim, model.decoder_dim) if model.positions == "sinusoid" else ()
    for name, dim in zip(POSITIONS, dims, strict=bool(dims)):
        stored = _pop(state, name, (1, rows, dim))[0]
        is_same = checked is not None and torch.equal(stored, checked)
        if not is_same and not is_sinusoid(stored, POSITIONS_TOLERANCE):
            raise ValueError(f"{name} is not the sinusoid of the published code")
        checked = stored

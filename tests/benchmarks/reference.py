"""s3prl's own MAE-AST, built through its own classes with random weights: what ours is measured against."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

BASE_PATCH = {
    "ast_kernel_size_chan": 16,
    "ast_kernel_size_time": 16,
    "ast_kernel_stride_chan": 16,
    "ast_kernel_stride_time": 16,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "feature_grad_mult": 1.0,
    "use_post_enc_proj": False,
    "decoder_embed_dim": 768,
    "decoder_layers": 2,
    "decoder_layerdrop": 0.0,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.1,
    "random_mask_prob": 0.75,
    "mask_length": 10,
    "mask_selection": "static",
    "mask_other": 0,
    "no_mask_overlap": False,
    "mask_min_space": 0,
    "checkpoint_activations": False,
    "max_token_length": 48000,
    "enc_sine_pos": True,
    "enc_conv_pos": False,
    "dec_sine_pos": True,
    "dec_conv_pos": False,
}
TASK = {
    "feature_type": "fbank",
    "feature_dim": 128,
    "feature_rate": 100,
    "sample_rate": 16000,
    "mask_type": "chunk_mask",
}


def write_checkpoint(path: Path, **shape: int) -> Path:
    """A patch checkpoint in the published format, with realistic normalisation statistics: base but for ``shape``."""
    from s3prl.upstream.mae_ast.mae_ast import MAE_AST

    torch.manual_seed(0)
    model = {**BASE_PATCH, **shape}
    network = MAE_AST(SimpleNamespace(**model), SimpleNamespace(**TASK))
    network.batch_norm.running_mean.fill_(-5.2)
    network.batch_norm.running_var.fill_(19.4)
    cfg = {"model": model, "task": TASK}
    torch.save({"cfg": cfg, "model": network.state_dict()}, path)
    return path


def load_expert(path: Path) -> Any:
    """s3prl's UpstreamExpert on that file, in eval mode."""
    from s3prl.upstream.mae_ast.expert import UpstreamExpert

    return UpstreamExpert(str(path)).eval()

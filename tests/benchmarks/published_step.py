"""The published MAE-AST training step: s3prl's copy of its model, with the published loss, loops and optimiser."""

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from reference import BASE_PATCH, TASK
from torch import Tensor, nn

from maeast_upstream.model import ModelConfig


def published_step(model: ModelConfig, fbank: Tensor) -> Callable[[], object]:
    """One update on (B, frames, 128) log-mel spectrograms, which the published loader computes.

    As it runs: float32 on a CPU; on a GPU weights in fp16 with a float32 copy for the optimiser, as fairseq has it.
    """
    from s3prl.upstream.mae_ast.mae_ast import MAE_AST

    shape = {
        "encoder_layers": model.depth,
        "encoder_embed_dim": model.embed_dim,
        "encoder_ffn_embed_dim": model.ffn_dim,
        "encoder_attention_heads": model.num_heads,
        "decoder_embed_dim": model.decoder_dim,
        "decoder_layers": model.decoder_depth,
        "encoder_layerdrop": model.layerdrop,
    }
    torch.manual_seed(0)
    network = MAE_AST(SimpleNamespace(**{**BASE_PATCH, **shape}), SimpleNamespace(**TASK)).train().to(fbank.device)
    weights = list(network.parameters())
    if fbank.is_cuda:
        weights = [weight.detach().float().clone() for weight in weights]
        network, fbank = network.half(), fbank.half()
    scale = 128.0 if fbank.is_cuda else 1.0
    optimizer = torch.optim.AdamW(weights, lr=1e-7, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)
    padding = torch.zeros(fbank.shape[:2], dtype=torch.bool, device=fbank.device)

    def step() -> None:
        (scale * published_loss(network(fbank, padding_mask=padding, mask=True))).backward()
        if fbank.is_cuda:
            for weight, half in zip(weights, network.parameters(), strict=True):
                weight.grad = None if half.grad is None else half.grad.float() / scale
        nn.utils.clip_grad_norm_(weights, 10.0)
        optimizer.step()
        if fbank.is_cuda:
            with torch.no_grad():
                for weight, half in zip(weights, network.parameters(), strict=True):
                    half.copy_(weight)
        network.zero_grad()

    return step


def published_loss(output: dict[str, Tensor]) -> Tensor:
    """10 * MSE + InfoNCE within each clip, clip by clip as the published criterion has it."""
    targets = output["target_m_list"].float()
    loss = 10 * F.mse_loss(output["logit_m_list_recon"].float(), targets)
    right = torch.arange(targets.shape[1], device=targets.device)
    for predicted, own in zip(output["logit_m_list_class"].float(), targets, strict=True):
        loss = loss + F.cross_entropy(predicted @ own.T, right) / len(targets)
    return loss

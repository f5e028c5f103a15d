"""The optimiser of a recipe: its parameter groups and its learning rate over time."""

import torch
from torch import nn

from pretrain.config import OptimConfig


def learning_rate(step: int, optim: OptimConfig) -> float:
    """The rate of batch ``step`` (counted from 0): linear warm-up, constant, linear decay to 0."""
    warm = (step + 1) / max(1, optim.warmup_steps)
    left = (optim.steps - step) / max(1, optim.decay_steps)
    return optim.lr * min(1.0, warm, left)


def make_optimizer(module: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, and none on biases, norms and mask embeddings."""
    matrices = [p for p in module.parameters() if p.dim() > 1]
    others = [p for p in module.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps)

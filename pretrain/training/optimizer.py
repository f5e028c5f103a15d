"""The optimiser of a recipe: its parameter groups and its learning rate over time."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pretrain.config import OptimConfig


class Average:
    """average = decay * average + (1 - decay) * weight, after each update.

    In the first updates the decay is (1 + n) / (10 + n), lest the average keeps the random weights it began with.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._live = dict(module.named_parameters())
        self.values = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take up the weights as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
            list(self.values.values()), [p.detach() for p in self._live.values()], None
        )

    def load(self, values: dict[str, Tensor], updates: int) -> None:
        """What a run saved."""
        self.updates = updates
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(values[name])


def learning_rate(step: int, optim: OptimConfig) -> float:
    """The rate of batch ``step`` (counted from 0): linear warm-up, constant, decay to 0."""
    warm = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    left = min(1.0, (optim.steps - step) / max(1, optim.decay_steps))
    if optim.decay == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    else:
        left **= optim.decay_power
    return optim.lr * min(warm, left)


def make_optimizer(module: nn.Module, optim: OptimConfig, fused: bool = False) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, and none on biases, norms and mask embeddings.

    ``fused`` is one kernel for all weights, which on CUDA can skip an update on the device's own word.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (optim.beta1, optim.beta2)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=fused or None)

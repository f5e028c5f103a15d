"""The optimizer of a run: its parameter groups, its learning rate over time, and a moving average of the weights."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pretrain.config import OptimConfig


class Average:
    """An exponential moving average: average = decay * average + (1 - decay) * weight, after each update.

    In the first updates the decay is (1 + n) / (10 + n), so that the average forgets the random weights it began with.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._live = dict(module.named_parameters())
        self.values = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
            list(self.values.values()), [p.detach() for p in self._live.values()], None
        )

    def load(self, values: dict[str, Tensor], updates: int) -> None:
        """Restore a saved average and its number of updates."""
        self.updates = updates
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(values[name])


def learning_rate(step: int, optim: OptimConfig) -> float:
    """The learning rate of batch ``step``, counted from 0: linear warm-up, constant, decay to 0."""
    warm = min(1.0, (step + (not optim.warmup_from_zero)) / max(1, optim.warmup_steps))
    decay = min(1.0, (optim.steps - step) / max(1, optim.decay_steps))
    if optim.decay == "cosine":
        decay = 0.5 - 0.5 * math.cos(math.pi * decay)
    else:
        decay **= optim.decay_power
    return optim.lr * min(warm, decay)


def make_optimizer(module: nn.Module, optim: OptimConfig, fused: bool = False) -> torch.optim.AdamW:
    """Make an AdamW with weight decay for matrices, and with ``decay_all`` for biases, norms and mask embeddings too.

    ``fused`` uses one kernel for all weights, which on CUDA can skip an update without waiting for the device.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": optim.weight_decay if optim.decay_all else 0.0},
    ]
    betas = (optim.beta1, optim.beta2)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=fused or None)

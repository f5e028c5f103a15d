"""A moving average of the weights while they are trained, updated on their device."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


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

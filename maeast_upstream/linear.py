"""A linear layer that takes the faster of torch's two float32 matrix products on a CPU.

Torch's float32 ``linear`` goes through MKL, which runs at half speed on processors that are not Intel's; the same
product as a 1x1 convolution goes through oneDNN (measured on an AMD EPYC: 170 against 385 GFLOP/s on two cores).
"""

import functools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLEARLY = 1.2
"""The convolution is taken where it is at least so much faster, so that noise does not decide."""


class Linear(nn.Linear):
    """``nn.Linear``, the same weights and numbers (to rounding), by the faster way."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if input.device.type != "cpu" or traced():  # a trace knows no numel()
            return super().forward(input)
        plain = input.dtype == torch.float32 and input.numel() > 0 and not torch.is_autocast_enabled("cpu")
        if not plain or not convolution_is_faster():
            return super().forward(input)
        return by_convolution(input, self.weight, self.bias)


def traced() -> bool:
    """Whether the call is being compiled or exported: what comes of it chooses its own products."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def by_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear(x, weight, bias)`` as a 1x1 convolution over a (1, C, rows, 1) picture, channels innermost."""
    picture = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(picture, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


@functools.cache
def convolution_is_faster() -> bool:
    """Measured once a process (about 20 ms), on a product of a base encoder's size."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        x, weight, bias = torch.ones(512, 768), torch.ones(768, 768), torch.ones(768)
        plain, convolved = [], []
        for _ in range(5):
            plain.append(_seconds(lambda: F.linear(x, weight, bias)))
            convolved.append(_seconds(lambda: by_convolution(x, weight, bias)))
    return min(plain) > CLEARLY * min(convolved)


def _seconds(work: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

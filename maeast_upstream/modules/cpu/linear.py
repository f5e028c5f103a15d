"""A linear layer that uses the faster of torch's two float32 matrix products on a CPU.

Torch's float32 ``linear`` calls MKL, which does not use the full speed of processors of other makers than Intel; the
same product as a 1x1 convolution calls oneDNN.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

CPUINFO = Path("/proc/cpuinfo")


class Linear(nn.Linear):
    """``nn.Linear`` with the same weights, and the same results to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        # traced tensors have no numel(), and oneDNN cannot use tensors without memory (FakeTensor)
        if input.device.type != "cpu" or type(input) is not Tensor or traced():
            return super().forward(input)
        plain = input.dtype == torch.float32 and input.numel() > 0 and not torch.is_autocast_enabled("cpu")
        if not plain or not convolution_is_faster():
            return super().forward(input)
        return by_convolution(input, self.weight, self.bias)


def traced() -> bool:
    """Whether the call is compiled or exported; the runtime of the result has its own matrix products."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def by_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear(x, weight, bias)`` as a 1x1 convolution over a (1, C, rows, 1) image, channels last.

    It calls oneDNN's convolution by name, because on one thread ``F.conv2d`` calls MKL, too.
    """
    image = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = torch.mkldnn_convolution(image, weight[:, :, None, None], bias, (0, 0), (1, 1), (1, 1), 1)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


@functools.cache
def convolution_is_faster() -> bool:
    """Whether MKL does not use the full speed of this processor, which is assumed of AMD's.

    It is not measured: the next process might measure the opposite, and a training run resumed in it would end with
    other bits.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    try:
        return "AuthenticAMD" in CPUINFO.read_text()
    except OSError:
        return False

"""Counts the reads of tensors by the host, for which it would wait if they were on a GPU."""

from torch import Tensor
from torch.overrides import TorchFunctionMode

READING = ("tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero")


class Reads(TorchFunctionMode):
    """A context that notes the name of each read of floats; whole numbers are the host's own plans and lengths."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READING and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self.names.append(name)
        return function(*args, **(kwargs or {}))

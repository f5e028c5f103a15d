"""Chooses the device that tensors live on, and sends tensors there."""

import torch
from torch import Tensor

from maeast_upstream.checks import quote
from maeast_upstream.messages import shortened


def usable_device(name: str | torch.device | None) -> torch.device:
    """Return a device by name after trying it.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1`` and so on; ``auto`` for CUDA if torch sees it, otherwise the CPU; None for
            the CPU.

    Raises:
        ValueError: it names no device, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    expected = f"device must be cpu, cuda, cuda:N or auto, got {quote(name)}"
    if not isinstance(name, str | torch.device | None) or str(name) == "meta":  # 0 would be the CPU, meta has no data
        raise ValueError(expected)
    try:
        device = torch.device(name or "cpu")
    except RuntimeError as error:
        raise ValueError(expected) from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # AssertionError: torch was built without CUDA
        reason = shortened(error)
        raise ValueError(f"device {name!r} cannot be used here ({reason}): use cpu") from error
    return device


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; it goes to a GPU through pinned memory, so that the CPU does not wait for the copy."""
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)

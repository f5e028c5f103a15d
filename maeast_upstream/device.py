"""Chooses the device that tensors live on."""

import torch

from maeast_upstream.messages import shortened


def usable_device(name: str | torch.device | None) -> torch.device:
    """Return a device by name after trying it.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1`` and so on; ``auto`` for CUDA if torch sees it, otherwise the CPU; None for
            the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name or "cpu")
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda, cuda:N or auto, got {name!r}") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = shortened(error)
        raise ValueError(f"device {name!r} cannot be used here ({reason}): use cpu") from error
    return device

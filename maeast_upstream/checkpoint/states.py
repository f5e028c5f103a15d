"""Reads and writes files of `torch.save` for resuming: whole ones are read, and a full disk is an OSError."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from maeast_upstream.checkpoint.archive import check_sums, open_archive
from maeast_upstream.messages import shortened
from maeast_upstream.storage.atomic import replacing

OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors names an error of the system."""


def read_whole(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a file of `torch.save` after comparing the checksums of its archive, which torch does not do.

    No code in it is run.

    Args:
        path: The file.
        device: Where its tensors go.

    Raises:
        ValueError: It is broken, or no such file. The message does not name it.
        OSError: It cannot be opened.
    """
    try:
        with open_archive(path) as archive:
            check_sums(archive)
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a broken file can raise anything
        raise ValueError(shortened(error) or type(error).__name__) from error


def write_whole(path: Path, content: Any) -> None:
    """Write a file of `torch.save` that appears when it is whole; OSError as in `disk_errors`."""
    with disk_errors(path), replacing(path) as part, part.open("wb") as file:  # given a name, torch would store it
        torch.save(content, file)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise an OSError that names ``path`` where torch or safetensors cannot write in the body.

    torch raises an error of its own after that of a file, and both libraries have other types for a full disk.
    """
    try:
        yield
    except (SafetensorError, RuntimeError, OSError) as error:
        origin: BaseException | None = error
        while origin is not None and not isinstance(origin, OSError):
            origin = origin.__cause__ or origin.__context__
        if isinstance(origin, OSError):
            raise OSError(origin.errno, origin.strerror or str(origin), origin.filename or str(path)) from error
        if found := OS_ERROR.search(str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        if isinstance(error, SafetensorError) or "write" in str(error):
            raise OSError(errno.EIO, shortened(error), str(path)) from error
        raise

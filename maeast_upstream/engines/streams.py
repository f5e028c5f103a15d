"""Batches side by side on a CPU: two on one core each take less time than one after the other on two.

Measured on two cores (base patch model, OpenVINO): bfloat16 820 against 750 GFLOP/s, float32 432 against 415; and clips
need no company of like length to use both.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, Protocol, TypeVar

import torch

MOST_STREAMS = 8
"""More than these have too few batches in the look-ahead to be busy."""

P = ParamSpec("P")
R = TypeVar("R")


class Start(Protocol):
    """Starts a call; what it gives back waits for the result."""

    def __call__(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
        """``work`` with its arguments; what comes back gives its result, or raises its fault."""


def streams_on(device: torch.device) -> int:
    """Streams that suit a device: on a CPU one for each of torch's threads, up to `MOST_STREAMS`; else one."""
    threads = torch.get_num_threads()
    return threads // -(-threads // MOST_STREAMS) if device.type == "cpu" else 1


@contextmanager
def shared_threads(streams: int) -> Iterator[None]:
    """Torch on a stream's share of its threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // streams))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def side_by_side(streams: int) -> Iterator[Start]:
    """Starts calls in threads of their own, each on as many of torch's threads as there are now; one calls at once."""
    if streams == 1:
        yield at_once
        return
    with ThreadPoolExecutor(streams, thread_name_prefix="stream") as pool:

        def start(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
            return pool.submit(work, *args, **kwargs).result

        try:
            yield start
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def at_once(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Callable[[], R]:
    """A `Start` without threads."""
    result = work(*args, **kwargs)
    return lambda: result

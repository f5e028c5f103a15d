"""`map` in other processes, in order, whose results do not pile up while the first of them is computed."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4
"""Calls per process that may be ahead of the reader, who waits while, for example, a file of a day is decoded."""


class Map(Protocol):
    """The built-in `map` of one iterable."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterable[R]:
        """Yield the result of each item in order."""


@contextlib.contextmanager
def mapping(workers: int) -> Iterator[Map]:
    """`map` in this process, or in ``workers`` others; at the end of the body, calls that have not begun are dropped.

    `ProcessPoolExecutor.map` computes all results as fast as it can, however slowly they are read.
    """
    if workers == 0:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:

        def apply(function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
            waiting: deque[Future[R]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield apply
        finally:
            pool.shutdown(cancel_futures=True)

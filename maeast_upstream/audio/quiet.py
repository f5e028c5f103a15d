"""Keeps libmpg123, which libsndfile uses for MP3, from writing about broken files to the terminal."""

import contextlib
import ctypes
import functools
import os
import platform
import sys
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_users = 0


@contextlib.contextmanager
def quiet_c() -> Iterator[None]:
    """Point the C library's `stderr` at the null device; Python's own stderr and the file descriptor stay as they are.

    May be nested and used in several threads. Does nothing where that variable is none, such as with musl.
    """
    with _lock:
        _count(1)
    try:
        yield
    finally:
        with _lock:
            _count(-1)


def _count(change: int) -> None:
    global _users
    _users += change
    if (found := _streams()) is not None:
        variable, stderr, null = found
        variable.value = null if _users else stderr


@functools.cache
def _streams() -> tuple[ctypes.c_void_p, int | None, int] | None:
    """Return the variable, its own value, and an opened null device."""
    name = {"linux": "stderr", "darwin": "__stderrp"}.get(sys.platform)
    if name is None or (sys.platform == "linux" and platform.libc_ver()[0] != "glibc"):
        return None
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    null = libc.fopen(os.fsencode(os.devnull), b"w")
    variable = ctypes.c_void_p.in_dll(libc, name)
    return (variable, variable.value, null) if null else None


def _forget() -> None:
    """Begin anew in a forked process, whose parent may have been in the middle of it."""
    global _lock, _users
    _lock, _users = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""Locks that keep two processes of this machine from writing to one folder.

All are released by the system when their holder ends, however it ends. They differ in who counts as the holder:

- `locked`: this process. It works on every operating system, by the package filelock.
- `ProcessLock`: this process, but no process that it forked, so that workers which survive a killed parent for some
  seconds do not keep the lock. filelock's lock (``flock``) would stay with them.
- `inherited_lock`: this process and every child that gets the descriptor, so that a child which survives its killed
  parent keeps the lock.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

POLL_SECONDS = 0.1
LINK = "a link, which would make this program write to another file; remove it"


@contextlib.contextmanager
def locked(path: Path, refusal: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock on the file ``path`` during the body, and remove the file at its end.

    Raises:
        ValueError: Another process holds the lock, still after ``wait_seconds``; the message is ``refusal``.
        NotImplementedError: The file system has no locks.
    """
    from filelock import FileLock, Timeout

    if path.is_symlink():
        raise ValueError(f"{path}: {LINK}")
    lock = FileLock(path, timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(refusal) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


class ProcessLock:
    """A lock that belongs to this process alone and is not inherited by the processes that it forks."""

    def __init__(self, path: Path, refusal: str) -> None:
        """Take the lock, and write the name of this process to the file ``path``.

        Raises:
            ValueError: Another process holds the lock; the message is ``refusal`` and the name of that process.
        """
        import fcntl

        self._file = _open(path)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ValueError(f"{refusal} (process {holder})") from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"{os.getpid()} on {os.uname().nodename}\n")
        self._file.flush()

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


@contextlib.contextmanager
def inherited_lock(path: Path, refusal: str, wait_seconds: float = 0.0) -> Iterator[int]:
    """Hold a lock on the file ``path`` during the body, and yield its descriptor for ``pass_fds`` of a child process.

    Raises:
        ValueError: Another process holds the lock, still after ``wait_seconds``; the message is ``refusal``.
    """
    import fcntl

    deadline = time.monotonic() + wait_seconds
    with _open(path) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(refusal) from None
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def _open(path: Path) -> TextIO:
    """Open or make a lock's file; ValueError if it is a link, which somebody else may have put there."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path}: {LINK}") from None
        raise

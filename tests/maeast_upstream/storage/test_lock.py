import contextlib
import os
import subprocess
import sys
import time

import pytest

from maeast_upstream.storage.lock import ProcessLock, inherited_lock, locked


@contextlib.contextmanager
def process_lock(path, refusal):
    lock = ProcessLock(path, refusal)
    yield
    lock.release()


LOCKS = {"locked": locked, "process_lock": process_lock, "inherited_lock": inherited_lock}
TAKE = """
import sys; from pathlib import Path; from maeast_upstream.storage import lock
path = Path(sys.argv[1])
try:
    if sys.argv[2] == "process_lock":
        lock.ProcessLock(path, "busy")
    else:
        with getattr(lock, sys.argv[2])(path, "busy"): pass
except ValueError as error:
    sys.exit(str(error))
"""


def take_elsewhere(path, name):
    """What another process says that tries to take the lock: nothing if it succeeds."""
    found = subprocess.run([sys.executable, "-c", TAKE, path, name], capture_output=True, text=True, timeout=60)
    return found.stderr.strip()


@pytest.mark.parametrize("name", LOCKS)
def test_a_second_process_is_refused_until_the_first_is_done(tmp_path, name):
    path = tmp_path / "lock"
    with LOCKS[name](path, "busy"):
        assert take_elsewhere(path, name).startswith("busy")
    assert take_elsewhere(path, name) == ""


@pytest.mark.parametrize("name", LOCKS)
def test_a_link_is_no_lock(tmp_path, name):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(ValueError, match="a link"), LOCKS[name](tmp_path / "lock", "busy"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_lock_file_is_removed(tmp_path):
    with locked(tmp_path / "lock", "busy"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_refusal_names_the_holder(tmp_path):
    with process_lock(tmp_path / "lock", "busy"):
        assert f"process {os.getpid()} on" in take_elsewhere(tmp_path / "lock", "process_lock")


def test_a_forked_child_does_not_keep_a_process_lock(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import os, sys, time; from pathlib import Path; from maeast_upstream.storage.lock import ProcessLock\n"
        "lock = ProcessLock(Path(sys.argv[1]), 'busy')\n"
        "if os.fork(): os._exit(9)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE) as parent:
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        assert take_elsewhere(path, "process_lock") == ""


def test_a_child_with_the_descriptor_keeps_an_inherited_lock(tmp_path):
    path = tmp_path / "lock"
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with inherited_lock(path, "busy") as descriptor:
        child = subprocess.Popen(wait, pass_fds=[descriptor], stdin=subprocess.PIPE)
    assert take_elsewhere(path, "inherited_lock") == "busy"
    child.communicate(timeout=60)
    assert take_elsewhere(path, "inherited_lock") == ""


def test_an_inherited_lock_waits(tmp_path):
    begun = time.monotonic()
    path, is_refused = tmp_path / "lock", pytest.raises(ValueError, match="busy")
    with inherited_lock(path, "busy"), is_refused, inherited_lock(path, "busy", wait_seconds=0.3):
        pass
    assert time.monotonic() - begun >= 0.3

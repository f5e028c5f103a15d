"""The processes of the kit, their lock and their logs."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_until

from hear_api.heareval import runs
from hear_api.heareval.runs import Processes, locked


def test_a_folder_in_which_another_run_writes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.2)
    refused = pytest.raises(ValueError, match="model: another maeast hear is writing there")
    with locked(tmp_path / "model"), refused, locked(tmp_path / "model"):
        pass
    with locked(tmp_path / "model"):
        pass


CHILD = """
import time
from hear_api.heareval.launch import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", sys.argv[1]]).pid, flush=True)
time.sleep(60)
"""


def test_a_runner_ends_when_its_command_is_killed():
    process = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    words = {process.stdout.readline().strip() for _ in range(2)}
    (pid,) = words - {"ready"}
    process.kill()
    process.wait()
    status = Path(f"/proc/{pid}/status")
    assert wait_until(lambda: not status.exists() or "(zombie)" in status.read_text(), 20)


def test_stopped_processes_end_and_no_other_starts(tmp_path):
    with locked(tmp_path) as lock:
        processes = Processes(lock)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        processes.running.add(child)
        processes.stop()
        assert child.wait(20) != 0
        assert processes.run([sys.executable, "-c", "open('begun', 'w')"], tmp_path / "log", {}) == 1
    assert not (tmp_path / "begun").exists()


def test_the_last_line_of_a_log_is_found(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo \xff\n\n   \n")
    assert runs.last_line(log).startswith("two")
    log.write_bytes(b"")
    assert runs.last_line(log) == "the log is empty"

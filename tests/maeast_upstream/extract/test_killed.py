"""A real process of `maeast embed`, killed at random moments and started again."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import (
    assert_same_tables,
    ended,
    make_clips,
    start,
    wait_until,
    whole_parts,
)

from maeast_upstream.cli import main
from maeast_upstream.extract.outputs import output_at

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    return make_clips(tmp_path, 240)


def kill_and_go_on(folder, out, kills, random):
    """Kill it ``kills`` times while it writes parts, then let it end; how often it was killed at work."""
    hit = 0
    for _ in range(kills):
        before = whole_parts(out)
        process = start(folder, out)
        wait_until(lambda process=process, before=before: whole_parts(out) > before or process.poll() is not None)
        time.sleep(random.uniform(0, 0.15))
        hit += process.poll() is None
        process.kill()
        ended(process)
    status, said = ended(start(folder, out))
    assert status == 3, said
    return hit


def check_killed_runs(tmp_path, count, kills):
    folder = make_clips(tmp_path, count)
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    ended(start(folder, whole))
    hit = kill_and_go_on(folder, killed, kills, random.Random(0))
    assert_same_tables(whole, killed, count - count // 40, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {
        "clips",
        *(f"{name}.parquet{ending}" for name in ("whole", "killed") for ending in ("", ".errors.tsv")),
    }
    return hit


def test_killed_three_times_it_ends_with_the_same_rows(tmp_path):
    assert check_killed_runs(tmp_path, 240, 3) == 3


@pytest.mark.stress
def test_killed_twenty_times_it_ends_with_the_same_rows(tmp_path):
    assert check_killed_runs(tmp_path, 2000, 24) >= 20


def test_a_kill_costs_little_of_a_run_with_fewer_clips_than_a_part(folder, tmp_path):
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    ended(start(folder, whole))
    process = start(folder, killed, part_clips=1000, save_seconds=0.1)
    assert wait_until(lambda: whole_parts(killed) > 1)
    process.kill()
    ended(process)
    saved = output_at(str(killed)).store.total().segments
    assert 0 < saved < 240
    status, said = ended(start(folder, killed, "--workers", "0", part_clips=1000))
    assert status == 3, said
    assert_same_tables(whole, killed, 240 - 240 // 40, atol=1e-5)


def test_a_kill_leaves_no_file_under_its_final_name_and_no_process(folder, tmp_path):
    out = tmp_path / "e.parquet"
    process = start(folder, out)
    wait_until(lambda: whole_parts(out) > 0)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    ended(process)
    assert not out.exists()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_ctrl_c_ends_with_a_message_how_to_go_on(folder, tmp_path):
    out = tmp_path / "e.parquet"
    process = start(folder, out)
    wait_until(lambda: whole_parts(out) > 0)
    process.send_signal(signal.SIGINT)
    status, said = ended(process)
    assert status == 130
    assert "the same command continues from there" in said
    assert "Traceback" not in said
    assert not out.exists()
    assert not list(tmp_path.glob("*/.*"))


KILLED_AT = """
import os, signal, sys
from maeast_upstream.cli import main
from maeast_upstream.storage.folder import Storage
left, move = int(sys.argv[1]), Storage._move
def moving(*args):
    global left
    left -= 1
    left or os.kill(os.getpid(), signal.SIGKILL)  # all is written, nothing has its name
    move(*args)
Storage._move = moving
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("name", "options", "moves"),
    [
        ("e.parquet", [], {3: "the errors", 4: "the table"}),
        ("out", ["--format", "npy"], {2: "a clip"}),
    ],
)
def test_a_kill_at_any_point_leaves_nothing(tmp_path, name, options, moves):
    make_clips(tmp_path, 8)
    command = ["embed", str(tmp_path / "clips"), "-o", str(tmp_path / name), "--engine", "torch", *options]
    for number, what in moves.items():
        killed = subprocess.run([sys.executable, "-c", KILLED_AT, str(number), *command], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, what
        assert list(tmp_path.rglob(".*.scratch")), what
        assert main([*command, *(["--force"] if number % 2 else [])]) == 3, what
        assert not list(tmp_path.rglob(".*")), what
        assert {path.name for path in tmp_path.iterdir()} == {"clips", name, f"{name}.errors.tsv"}
        assert main(command) == 3
        output_at(str(tmp_path / name), "npy" if options else None).remove()

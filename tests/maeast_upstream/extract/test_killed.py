"""A real process of `maeast embed`, killed at random moments and started again."""

import random
import signal
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

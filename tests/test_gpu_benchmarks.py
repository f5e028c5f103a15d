"""``make gpu`` on a CPU with tiny sizes, so that no mistake in it waits for the first GPU."""

import subprocess
import sys
import time

import gpu
import pytest
from bench_pretrain_cuda import largest_batch

MEASURED = [name for name in gpu.GROUPS if name != "tests"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "group", [pytest.param(name, marks=[pytest.mark.s3prl] if name == "superb" else []) for name in MEASURED]
)
def test_every_group_measures_and_writes_its_page(group, tmp_path, capsys):
    gpu.measure(group, gpu.DRY, tmp_path)
    (page,) = tmp_path.iterdir()
    lines = page.read_text().splitlines()
    assert page.name == f"dry-run-{group}.md"
    assert lines[0] == f"# Benchmarks: {group}"
    assert lines[5:7] == ["| what | measured | wanted |", "|---|---|---|"]
    assert len(lines) > 7
    assert capsys.readouterr().out == page.read_text() + "\n"


@pytest.mark.stress
@pytest.mark.slow
@pytest.mark.s3prl
def test_the_whole_script_from_another_folder(tmp_path):
    command = [sys.executable, gpu.__file__, "--dry-run", "--out", str(tmp_path), "--minutes", "30"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"dry-run-{name}.md" for name in gpu.GROUPS)


CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"


@pytest.mark.parametrize(
    ("code", "limit", "end"),
    [
        ("pass", 30, "done, "),
        ("raise SystemExit(4)", 30, "left out, a package is missing, "),
        ("raise SystemExit(1)", 30, "failed with status 1, "),
        (CHILD, 0.5, "stopped after its limit of 0 s"),
    ],
)
def test_a_group_ends_in_its_time_and_how_is_said(code, limit, end):
    begun = time.monotonic()
    assert gpu.run_group([sys.executable, "-c", code], limit).startswith(end)
    assert time.monotonic() - begun < 30


def test_a_slow_group_leaves_the_others_their_time(monkeypatch):
    limits, groups = [], ["tests", "encoder", "recipe-compiled"]
    monkeypatch.setattr(gpu, "run_group", lambda command, limit: limits.append((command[2], round(limit))) or "done")
    assert gpu.all_groups(groups, [], 100) == dict.fromkeys(groups, "done")
    assert limits == [("tests", 100), ("encoder", 60), ("recipe-compiled", 100)]
    assert gpu.all_groups(["tests"], [], 10) == {"tests": "left out, no time"}


def test_the_groups_but_the_last_fit_into_twelve_minutes():
    assert sum(seconds for seconds, _ in list(gpu.GROUPS.values())[:-1]) <= 720


def test_a_missing_package_and_a_missing_gpu_are_one_line(monkeypatch, tmp_path, capsys):
    def needs(sizes):
        raise ModuleNotFoundError(name="s3prl")

    monkeypatch.setitem(gpu.GROUPS, "superb", (1, needs))
    assert gpu.one_group("superb", gpu.DRY, tmp_path) == gpu.MISSING
    assert capsys.readouterr().err == "superb: the package s3prl is not installed\n"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.one_group("encoder", gpu.Sizes(), tmp_path) == 1
    assert capsys.readouterr().err == "error: encoder: torch finds no CUDA device; --dry-run needs none\n"
    assert not list(tmp_path.iterdir())


def test_an_unknown_group_is_refused_with_the_known(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "decoder"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "unknown group decoder: the groups are tests, encoder, packed" in capsys.readouterr().err


def test_the_largest_batch_fills_most_of_the_memory():
    assert largest_batch(77 * 2**20, 130 * 2**30) == 1344
    assert largest_batch(77 * 2**20, 2**30) == 64
    assert largest_batch(1, 2**40) == 2048

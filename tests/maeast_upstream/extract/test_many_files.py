"""`maeast embed` over many files, good and bad."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from bad_files import make_bad_files

from maeast_upstream.cli import main

pytestmark = pytest.mark.slow

AUDIO = Path(__file__).parents[2] / "data" / "audio"
CLIPS = sorted(path for path in AUDIO.glob("*.opus") if path.name != "long_drums.opus")
PEAK = """
import sys
from maeast_upstream.cli import main
status = main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
raise SystemExit(status)
"""


def make_links(folder, count, clips):
    """Many names for a few files, a thousand to a folder."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03d}").mkdir(parents=True)
        os.link(
            clips[number % len(clips)],
            folder / f"{number // 1000:03d}" / f"{number:06d}.opus",
        )


def embed_with_bad_ones(tmp_path, good, bad_folders):
    folder = tmp_path / "files"
    copies = [Path(shutil.copy(clip, tmp_path)) for clip in CLIPS]
    make_links(folder, good, copies)
    reasons = {}
    for number in range(bad_folders):
        (folder / f"bad{number:02d}").mkdir()
        made = make_bad_files(folder / f"bad{number:02d}")
        reasons |= {str(folder / f"bad{number:02d}" / name): reason for name, reason in made.items()}
    out = tmp_path / "e.parquet"
    assert (
        main(
            [
                "embed",
                str(folder),
                "-o",
                str(out),
                "--workers",
                "2",
                "--engine",
                "torch",
            ]
        )
        == 3
    )
    with (tmp_path / "e.parquet.errors.tsv").open(newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file, delimiter="\t")}
    assert listed.keys() == {path for path, reason in reasons.items() if reason}
    for path, reason in listed.items():
        assert reasons[path] in reason
    embedded = pq.read_table(out, columns=["path"])["path"].to_pylist()
    assert len(embedded) == len(set(embedded)) == good + sum(reason is None for reason in reasons.values())


def test_of_300_files_every_good_one_is_embedded_and_every_bad_one_listed(tmp_path):
    embed_with_bad_ones(tmp_path, 290, 1)


@pytest.mark.stress
def test_of_10_000_files_every_good_one_is_embedded_and_every_bad_one_listed(tmp_path):
    embed_with_bad_ones(tmp_path, 9_900, 10)


def peak_mib(tmp_path, count):
    """Peak memory of a process that embeds ``count`` short clips."""
    folder = tmp_path / str(count)
    short = [Path(shutil.copy(clip, tmp_path)) for clip in sorted(CLIPS, key=lambda path: path.stat().st_size)[:8]]
    make_links(folder, count, short)
    options = ["--engine", "torch", "--mel", "mean", "--pool", "mean", "--layer", "1"]
    command = [
        sys.executable,
        "-c",
        PEAK,
        "embed",
        str(folder),
        "-o",
        str(tmp_path / f"{count}.parquet"),
        *options,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return int(done.stdout.split()[-1]) / 1024


def test_memory_is_the_same_for_1_000_and_4_000_files(tmp_path):
    assert peak_mib(tmp_path, 4_000) < 1.1 * peak_mib(tmp_path, 1_000)


@pytest.mark.stress
def test_memory_is_the_same_for_1_000_and_100_000_files(tmp_path):
    few, many = peak_mib(tmp_path, 1_000), peak_mib(tmp_path, 100_000)
    print(f"peak memory: {few:.0f} MiB for 1,000 files, {many:.0f} MiB for 100,000")
    assert many < 1.1 * few

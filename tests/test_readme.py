"""The README's blocks are run as they are printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=[f"{i}-{b[0]}" for i, b in enumerate(BLOCKS)])
def test_a_block_runs_and_prints_what_it_says(language, block, tmp_path):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if language == "python":
        done = subprocess.run(
            [sys.executable, "-c", block],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        for expected in re.findall(r"print\(.*\)\s+# (.*)", block):
            assert expected in done.stdout
    else:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        command = ["bash", "-euc", block]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": path},
            check=False,
        )
    assert done.returncode == 0, done.stderr

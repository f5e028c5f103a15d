"""Code blocks in Markdown pages, for `test_readme` and `test_docs`.

Blocks in ``sh`` and ``python`` are run, page by page from top to bottom in one folder; what follows ``#`` after a
``print`` must be in its output. Blocks in ``bash`` need a network, a GPU or hours, so only the names of their commands
and options are checked.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PATH = f"{Path(sys.executable).parent}:/usr/bin:/bin"


class Block(NamedTuple):
    """A fenced block."""

    page: Path
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.number}-{self.language}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in one of ``languages``."""
    fenced = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [Block(page, i, *block) for i, block in enumerate(fenced) if block[0] in languages]


def working_folder(folder: Path) -> Path:
    """The folder, with links to those of the repository that pages mention."""
    for name in ("tests", "configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_block(block: Block, folder: Path) -> None:
    """Run a block in ``folder``; AssertionError if it fails or does not print what it says."""
    printed = run_python(block.text, folder) if block.language == "python" else run_shell(block.text, folder)
    for expected in re.findall(r"^print\(.*\)\s+# (.*)", block.text, flags=re.MULTILINE):
        assert expected in printed


def run_python(text: str, folder: Path) -> str:
    """Run Python code in this process, which has loaded torch already; what it prints."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "<block>", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def run_shell(text: str, folder: Path) -> str:
    """Run shell commands, of which none may fail; what they print."""
    environment = {"PATH": PATH, "HOME": os.environ["HOME"], "OMP_NUM_THREADS": "1"}
    command = ["bash", "-euc", text]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

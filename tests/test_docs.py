"""The guides: blocks run, commands and options exist, links have targets; and the examples run."""

import contextlib
import io
import re
import runpy
import sys
from functools import cache
from unittest import mock

import pytest
from pages import README, ROOT, blocks, run_block, working_folder

from maeast_upstream.cli import COMMANDS

GUIDES = sorted((ROOT / "docs").glob("*.md"))
IN_README = {block.text for block in blocks(README, "python", "sh")}
RUN = [block for page in GUIDES for block in blocks(page, "python", "sh") if block.text not in IN_README]
CHECKED = [block for page in (README, *GUIDES) for block in blocks(page, "bash")]
LINE = re.compile(r"^(maeast|.*python -m(?= pretrain)|torchrun .*-m(?= pretrain)) ([\w.-]+)(.*)")
OTHERS = {"--hub", "--address", "--head"}
"""Options of s3prl and Ray."""
OPTION = re.compile(r"(?<= )--?[a-zA-Z][\w.-]*")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return cache(lambda page: working_folder(tmp_path_factory.mktemp(page.stem)))


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs_and_prints_what_it_says(block, folders):
    run_block(block, folders(block.page))


@cache
def help_of(runner: str, name: str) -> str:
    """What ``maeast NAME --help`` or ``python -m NAME --help`` prints."""
    module, argv = ("maeast_upstream.cli", [name]) if runner == "maeast" else (name, [])
    printed = io.StringIO()
    arguments = mock.patch.object(sys, "argv", [module, *argv, "--help"])
    with arguments, contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert not ended.value.code, f"{runner} {name} --help"
    return printed.getvalue()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("block", CHECKED, ids=str)
def test_its_commands_and_options_exist(block):
    for line in block.text.replace("\\\n", " ").splitlines():
        if not (command := LINE.match(line.split("  #")[0].strip())):
            continue
        runner, name, rest = command.groups()
        for option in OPTION.findall(rest):
            listed = help_of("python", "pretrain") if "." in option else help_of(runner, name)
            assert re.search(rf"(?<![\w-]){re.escape(option)}\b", listed), f"{name} has no {option}"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_options_in_the_text_exist():
    modules = ("pretrain", "pretrain.sweep", "pretrain.pack", "pretrain.targets", "pretrain.corpora.debian_audio")
    listed = [help_of("maeast", name) for name in COMMANDS] + [help_of("python", name) for name in modules]
    known = set(re.findall(r"--[\w.-]+", " ".join(listed))) | OTHERS
    for page in (README, *GUIDES):
        code = " ".join(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text(encoding="utf-8")))
        unknown = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", code)) - known
        assert not unknown, page.name


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.stem)
def test_links_between_pages_point_at_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_the_map_of_the_tree_shows_what_exists():
    (tree, *_) = blocks(ROOT / "docs" / "development.md", "text")
    package = ROOT
    for line in tree.text.splitlines():
        names = line.strip().split("  ")[0].split()
        folder = package if line.startswith("  ") else ROOT
        missing = [name for name in names if not (folder / name).exists()]
        assert not missing, line
        package = folder / names[0] if folder == ROOT else package


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("first_steps.py", ["110 clips", "most similar to", "test accuracy"]),
        ("compare_checkpoints.py tests/data/labels.csv bundled random", ["bundled: valid", "random: valid", "CKA"]),
    ],
    ids=["first-steps", "compare-checkpoints"],
)
def test_an_example_runs(command, expected, monkeypatch, capsys):
    script, *arguments = command.split()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(f"examples/{script}", run_name="__main__")
    printed = capsys.readouterr().out
    for words in expected:
        assert words in printed


def test_each_fault_found_in_the_field_has_its_test():
    page = (ROOT / "docs" / "results" / "faults.md").read_text()
    tests = re.findall(r"`([\w/]+\.py)`: `(test_\w+)`", page)
    assert len(tests) > 100
    for file, name in tests:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}: {name}"

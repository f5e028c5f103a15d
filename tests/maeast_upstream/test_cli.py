"""`maeast`: finding commands, and how every run ends."""

from importlib.metadata import EntryPoint

import pytest

from maeast_upstream import __version__, cli
from maeast_upstream.command import Parser


def greet(argv):
    """Say a word.

    More about it.
    """
    parser = Parser(prog="maeast greet")
    parser.add_argument("word", choices=["hello", "bye"])
    print(parser.parse_args(argv).word)
    return 3 if argv == ["bye"] else 0


def fail(argv):
    """Raise what the test asks for."""
    raise {
        "value": ValueError("two\nlines"),
        "os": OSError(2, "gone", "x"),
        "runtime": RuntimeError("CUDA out of\nmemory"),
        "memory": MemoryError(),
        "stop": KeyboardInterrupt(),
    }[argv[0]]


@pytest.fixture
def own_commands(monkeypatch):
    """Two commands of a package of one's own, and one whose package lacks something."""
    module = type("Module", (), {"greet": greet, "fail": fail})
    monkeypatch.setitem(__import__("sys").modules, "own_package", module)
    names = {
        "greet": "own_package:greet",
        "fail": "own_package:fail",
        "broken": "no_such_package:main",
    }
    entries = [EntryPoint(name, value, cli.GROUP) for name, value in names.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries if group == cli.GROUP else [])


def test_help_lists_every_registered_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("embed", "info", "convert", "visualize", "map", "probe", "pretrain"):
        assert f"  {name} " in text
    assert "Embed audio files, folders" in text


def test_a_command_of_any_package_is_found_by_its_entry_point(own_commands, capsys):
    assert cli.main(["greet", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert cli.main(["greet", "bye"]) == 3


def test_help_survives_a_command_that_cannot_be_imported(own_commands, capsys):
    assert cli.main(["-h"]) == 0
    text = capsys.readouterr().out
    assert "Say a word." in text
    assert "More about it" not in text
    assert "not to be used here: No module named 'no_such_package'" in text


def test_the_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"maeast {__version__}\n"


def test_no_command_is_status_1_with_the_list(own_commands, capsys):
    assert cli.main([]) == 1
    assert "greet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sing"], "unknown command 'sing'; there are broken, fail, greet"),
        (
            ["greet"],
            "the following arguments are required: word (see maeast greet --help)",
        ),
        (["greet", "hum"], "invalid choice: 'hum'"),
        (["greet", "hello", "--loud"], "unrecognized arguments: --loud"),
        (["fail", "value"], "two lines"),
        (["fail", "os"], "gone"),
        (["fail", "runtime"], "CUDA out of memory"),
        (["fail", "memory"], "MemoryError"),
        (["broken"], "No module named 'no_such_package'"),
    ],
)
def test_what_a_user_did_wrong_is_one_line_and_status_1(own_commands, capsys, argv, message):
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_ctrl_c_is_status_130(own_commands, capsys):
    assert cli.main(["fail", "stop"]) == 130
    assert "Traceback" not in capsys.readouterr().err

"""`maeast`: finding commands, and how every run ends."""

import sys
from types import SimpleNamespace

import pytest

from maeast_upstream import __version__, cli
from maeast_upstream.arguments import Parser


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
    """Two small commands, and one whose module cannot be imported."""
    for name, main in {"greet": greet, "fail": fail}.items():
        monkeypatch.setitem(sys.modules, f"test_command_{name}", SimpleNamespace(main=main))
    entries = {
        "greet": cli.CommandEntry("test_command_greet", "Say a word"),
        "fail": cli.CommandEntry("test_command_fail", "Raise an error"),
        "broken": cli.CommandEntry("no_such_package", "Cannot be imported"),
    }
    monkeypatch.setattr(cli, "COMMANDS", entries)


def test_help_lists_every_registered_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("embed", "info", "convert", "visualize", "map", "probe", "pretrain"):
        assert f"  {name} " in text
    assert "Embed audio files, folders" in text


def test_a_command_gets_the_arguments_and_gives_the_exit_status(own_commands, capsys):
    assert cli.main(["greet", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert cli.main(["greet", "bye"]) == 3


def test_every_command_has_a_main():
    for name in cli.COMMANDS:
        assert callable(cli.find(name)), name


def test_a_mistyped_command_gets_a_suggestion(capsys):
    assert cli.main(["embde"]) == 1
    assert "did you mean 'embed'?" in capsys.readouterr().err


def test_a_traceback_is_shown_on_demand(own_commands, capsys, monkeypatch):
    assert cli.main(["fail", "value", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MAEAST_DEBUG", "1")
    assert cli.main(["fail", "value"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"maeast {__version__}\n"


def test_no_command_is_status_1_with_the_list(own_commands, capsys):
    assert cli.main([]) == 1
    assert "greet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sing"], "unknown command 'sing'; the commands are greet, fail, broken"),
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

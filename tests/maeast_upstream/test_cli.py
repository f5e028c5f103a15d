"""`maeast`: finding commands, their help, and how every run ends."""

import logging
import os
import resource
import subprocess
import sys
import types
import warnings

import pytest

from maeast_upstream import __version__, cli
from maeast_upstream.audio.reading import AudioWarning
from maeast_upstream.progress import progress_bar

COMMANDS = """
import logging
from maeast_upstream.arguments import Parser
from maeast_upstream.checkpoint import resolve

def greet(argv):
    parser = Parser(prog="maeast greet")
    parser.add_argument("word", choices=["hello", "bye"])
    parser.add_argument("--volume", type=int)
    args = parser.parse_args(argv)
    print(args.word)
    logging.getLogger("maeast_upstream").warning("careful")
    return 3 if args.word == "bye" else 0

def fail(argv):
    kind, *_ = argv
    if kind == "value":
        raise ValueError("two\\nlines")
    if kind == "runtime":
        raise RuntimeError("the machine is too old")
    if kind == "memory":
        raise MemoryError
    if kind == "stop":
        raise KeyboardInterrupt
    if kind == "file":
        open("no/such/file.wav")
    if kind == "library":
        import numpy
        numpy.zeros(3).reshape(2, 2)
    if kind == "python":
        int("x")
    if kind == "lookup":
        {}["x"]
"""


@pytest.fixture
def own_commands(monkeypatch):
    """Two small commands in a module of the project, and one whose package is not installed."""
    module = types.ModuleType("maeast_upstream.commands.imaginary")
    exec(compile(COMMANDS, "imaginary.py", "exec"), module.__dict__)
    for name in ("greet", "fail"):
        entry = types.SimpleNamespace(main=getattr(module, name))
        monkeypatch.setitem(sys.modules, f"test_command_{name}", entry)
    entries = {
        "greet": cli.CommandEntry("test_command_greet", "Say a word"),
        "fail": cli.CommandEntry("test_command_fail", "Raise an error"),
        "broken": cli.CommandEntry("no_such_package", "Cannot be imported"),
    }
    monkeypatch.setattr(cli, "COMMANDS", entries)
    yield
    cli.set_verbosity(verbose=False, quiet=False)


def test_help_lists_every_registered_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, entry in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert f" {entry.help}\n" in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_imports_no_torch(name):
    if name == "pretrain":
        pytest.importorskip("jsonargparse")
    code = f"""
import sys
from maeast_upstream.cli import find
try:
    find({name!r})(["--help"])
except SystemExit as stop:
    status = stop.code
heavy = ["torch", "pyarrow"] + ["numpy"] * (sys.argv[1] != "hear-task")
found = [name for name in heavy if name in sys.modules]
assert not found, found
sys.exit(status)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: maeast {name} ")
    assert "-v" in done.stdout
    assert after.ru_utime - before.ru_utime < 1.0  # 0.1 to 0.3 s; importing torch takes 2


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_list_of_commands_and_the_version_load_nothing_heavy(option):
    heavy = ["torch", "numpy", "pyarrow", "tqdm", "importlib.metadata"]
    code = f"""
import sys
from maeast_upstream.cli import main
assert main([{option!r}]) == 0
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[]\n"


def test_a_command_gets_the_arguments_and_gives_the_exit_status(own_commands, capsys):
    assert cli.main(["greet", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert cli.main(["greet", "bye"]) == 3


def test_every_command_has_a_main():
    for name in cli.COMMANDS:
        assert callable(cli.find(name)), name


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
        (["gret"], "did you mean 'greet'?"),
        (["greet"], "the following arguments are required: word (see maeast greet --help)"),
        (["greet", "hum"], "invalid choice: 'hum'"),
        (["greet", "hello", "--loud"], "unrecognized arguments: --loud"),
        (["greet", "hello", "--volme", "3"], "did you mean --volume instead of --volme?"),
        (["greet", "--volme=3"], "did you mean --volume instead of --volme?"),
        (["fail", "value"], "two lines"),
        (["fail", "runtime"], "the machine is too old"),
        (["fail", "file"], "no/such/file.wav: no such file or directory"),
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
    assert "Errno" not in error
    assert "unexpected" not in error


@pytest.mark.parametrize(
    ("kind", "name"), [("library", "ValueError"), ("python", "ValueError"), ("lookup", "KeyError")]
)
def test_an_error_that_this_project_did_not_raise_itself_asks_for_a_report(own_commands, capsys, kind, name):
    assert cli.main(["fail", kind]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: unexpected {name}: ")
    assert error.count("\n") == 1
    assert "--traceback" in error


def test_a_traceback_is_shown_on_demand(own_commands, capsys, monkeypatch):
    for argv in (["fail", "value", "--traceback"], ["--traceback", "fail", "value"]):
        assert cli.main(argv) == 1
        assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MAEAST_DEBUG", "1")
    assert cli.main(["fail", "value"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_status_130(own_commands, capsys):
    assert cli.main(["fail", "stop"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_quiet_hides_warnings_and_progress_bars(own_commands, caplog, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert cli.main(["greet", "hello"]) == 0
    assert "careful" in caplog.text
    assert not progress_bar([1]).disable
    caplog.clear()
    for argv in (["-q", "greet", "hello"], ["greet", "hello", "--quiet"]):
        assert cli.main(argv) == 0
        assert "careful" not in caplog.text
        assert progress_bar([1]).disable


def test_verbose_shows_every_message(own_commands):
    assert cli.main(["greet", "hello", "-v"]) == 0
    assert logging.getLogger("maeast_upstream.anything").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    "command",
    [
        ["maeast_upstream.cli", "--help"],
        ["maeast_upstream.cli", "info"],
        ["maeast_upstream.cli", "info", "--help"],
        ["maeast_upstream.cli", "pretrain", "--help"],
        ["pretrain.plot", "--help"],
        ["maeast_upstream.cli", "hear", "--help"],
    ],
)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_stops_early_is_no_error_message(command, buffered):
    if command[-1] == "info" and not buffered:
        pytest.skip("takes seconds and shows nothing more")
    if "pretrain" in command:
        pytest.importorskip("jsonargparse")
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, *([] if buffered else ["-u"]), "-m", *command]
    done = subprocess.run(line, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 141 or (done.returncode == 0 and "--help" in command)  # argparse itself ignores it


def test_a_broken_pipe_that_is_not_the_output_is_an_error(monkeypatch, capsys):
    def command(arguments):
        raise BrokenPipeError("the worker ended")

    assert cli.run(command, []) == 1
    assert capsys.readouterr().err == "error: the worker ended\n"


def test_an_error_is_of_bounded_length_and_ends_with_a_word(capsys):
    def command(arguments):
        raise OSError("name " * 1_000_000)

    assert cli.run(command, []) == 1
    error = capsys.readouterr().err
    assert len(error) < 2100
    assert error.endswith("name ...\n")


def test_without_stdout_there_is_no_error_message():
    command = ["sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "maeast_upstream.cli", "--help"]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


LOCALES = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "utf-8"},
]


@pytest.mark.parametrize("environment", LOCALES)
def test_any_name_is_printed_on_any_console(tmp_path, environment):
    code = """
import os, sys
from maeast_upstream import cli
from maeast_upstream.audio.reading import AudioWarning
def command(argv):
    text = "caf\\u00e9 \\u65e5\\u672c " + os.fsdecode(b"\\xe9") + " \\U0001f600"
    print(text)
    print(text, file=sys.stderr)
    raise ValueError(text)
sys.exit(cli.run(command, []))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 1
    name = "café 日本 ".encode() if environment == LOCALES[2] else rb"caf\xe9 \u65e5\u672c "
    assert done.stdout.startswith(name + rb"\xe9 ")
    assert done.stderr.count(name + rb"\xe9 ") == 2
    assert b"UnicodeEncodeError" not in done.stderr


def test_warnings_of_this_project_are_a_line_each_and_counted(own_commands, caplog, monkeypatch, capsys):
    def notice(argv):
        for number in (1, 1, 2, 3, 4, 5, 6, 7):
            warnings.warn(f"{number}.wav: ends early", AudioWarning, stacklevel=1)
        warnings.warn("of another library", UserWarning, stacklevel=1)
        return 0

    with pytest.warns(UserWarning, match="of another library"):
        assert cli.run(notice, []) == 0
    numbers = [f"{number}.wav: ends early" for number in range(1, 6)]
    assert caplog.messages == [*numbers, "7 such notes in all; the first 5 are above"]

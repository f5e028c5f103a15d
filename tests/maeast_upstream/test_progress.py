"""Lines on the progress of a command."""

import pytest

from maeast_upstream import cli
from maeast_upstream.progress import say


@pytest.fixture(autouse=True)
def usual_verbosity():
    yield
    cli.set_verbosity(verbose=False, quiet=False)


def test_steps_are_shown_in_terminals_and_a_few_lines_everywhere_but_nothing_if_quiet(capsys, monkeypatch):
    say("begun")
    say("a step", in_terminals_only=True)
    assert capsys.readouterr().err == "begun\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    say("a step", in_terminals_only=True)
    assert capsys.readouterr().err == "a step\n"
    cli.set_verbosity(verbose=False, quiet=True)
    say("begun")
    assert capsys.readouterr().err == ""

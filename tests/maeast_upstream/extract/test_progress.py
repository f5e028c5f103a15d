import io
import re

import pytest

from maeast_upstream import cli
from maeast_upstream.cli import main
from maeast_upstream.extract import progress
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.progress import Progress, shown_speed


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; its only item is the time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_per_interval_with_what_is_done(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    errors = [("bad.wav", "empty file", 0)]
    with Progress(10, PartReport(clips=3, errors=errors)) as shown:
        shown.add(PartReport(clips=2, samples=32_000))
        shown.add(PartReport(errors=errors))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["6 of 10 clips", "7 of 10 clips"]
    assert "2 errors" in lines[1]


def test_no_time_left_is_guessed_before_a_clip_is_done(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "SETTLED_SECONDS", 0.0)
    with Progress(2, PartReport()) as shown:
        shown.add(PartReport(rows=1, samples=32_000))
        shown.add(PartReport(clips=1, rows=1, samples=32_000))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("0 of 2 clips")
    assert "left" not in first
    assert "left" in last


def test_time_left_and_rate_are_shown_once_they_are_known(capsys, clock):
    clip = PartReport(clips=1, samples=16_000 * 75)
    with Progress(100, PartReport(), announce=True) as shown:
        clock[0] += 61
        shown.add(clip)  # the first of a block comes late
        clock[0] += 61
        shown.add(PartReport(clips=19, samples=19 * clip.samples))
    assert capsys.readouterr().err.splitlines() == [
        "0 of 100 clips",
        "1 of 100 clips",
        "20 of 100 clips, 08:08 left, 12x real time",
    ]


def test_a_terminal_shows_the_number_at_once_and_nothing_that_is_not_known(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(8, PartReport(clips=2)) as shown:
        painted = terminal.getvalue()
        assert "2 of 8 clips |" in painted
        clock[0] += 1
        shown.add(PartReport(clips=6, samples=16_000 * 250))
    text = terminal.getvalue()
    assert "?" not in text
    assert "left" not in text
    assert "8 of 8 clips |" in text
    assert text.rstrip().endswith("250x real time")


def test_nothing_is_shown_if_quiet(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    cli.set_verbosity(verbose=False, quiet=True)
    with Progress(8, PartReport(), announce=True) as shown:
        clock[0] += 100
        shown.add(PartReport(clips=6, samples=16_000))
        progress.announce(8, 0)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("times", "text"), [(0.413, "0.41x"), (4.13, "4.1x"), (250.4, "250x"), (2500, "2,500x")])
def test_a_rate_is_a_number_that_people_read(times, text):
    assert shown_speed(times) == text


def test_a_command_says_how_much_there_is_before_it_loads_a_model(tmp_path, monkeypatch):
    from maeast_upstream import encoder

    terminal, at_load = Terminal(), []
    load = encoder.load_model
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(encoder, "load_model", lambda *a: (at_load.append(terminal.getvalue()), load(*a))[1])
    for name in ("a", "b"):
        (tmp_path / f"{name}.wav").write_bytes(b"nothing")
    assert main(["embed", str(tmp_path), "-o", str(tmp_path / "e.parquet")]) == 1
    assert at_load == ["0 of 2 clips: loading the model\n"]
    assert re.search(r"2 of 2 clips \|", terminal.getvalue())

from maeast_upstream.extract import progress
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.extract.progress import Progress


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
    with Progress(1, PartReport()) as shown:
        shown.add(PartReport(rows=1, samples=32_000))
        shown.add(PartReport(clips=1, rows=1, samples=32_000))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("0 of 1 clips")
    assert "left" not in first
    assert "left" in last

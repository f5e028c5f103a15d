import json

import pytest

from maeast_upstream.cli import run
from pretrain import plot


def write_run(folder, valid):
    folder.mkdir()
    lines = [{"step": step, "loss": 10 / step, "lr": 0.1} for step in (1, 2, 3)]
    if valid:
        lines.insert(2, {"step": 2, "valid_loss": 6.0, "probe_valid": 50.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    return str(folder)


def test_several_runs_become_one_picture(tmp_path, capsys):
    runs = [write_run(tmp_path / "a", valid=True), write_run(tmp_path / "b", valid=False)]
    assert run(plot.main, [*runs, "-o", str(tmp_path / "curves.png")]) == 0
    assert "3 curves of 2 runs" in capsys.readouterr().out
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["$x_1$", "_run", "r\n<b>%s", "\udce9", "x" * 200])
def test_runs_of_any_name_are_in_the_legend(tmp_path, monkeypatch, name):
    legends = []
    monkeypatch.setattr(plot, "draw_legend", lambda owner, handles, names, **_: legends.append((handles, names)))
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / name, valid=True)
    assert run(plot.main, [name, "-o", "curves.png"]) == 0
    ((handles, names),) = legends
    assert (len(handles), names) == (1, [name])


def test_what_is_no_run_is_one_line(tmp_path, capsys):
    assert run(plot.main, [str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: not a run: no metrics.jsonl in it\n"
    (tmp_path / "metrics.jsonl").write_text("")
    assert run(plot.main, [str(tmp_path)]) == 1
    assert "no run has a line in its metrics yet" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))

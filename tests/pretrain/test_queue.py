import dataclasses

import pytest
import yaml

from maeast_upstream.cli import run
from pretrain import queue


@pytest.fixture
def listing(recipe, tmp_path):
    names = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.yaml"
        settings = dataclasses.asdict(dataclasses.replace(recipe, out=str(tmp_path / name)))
        path.write_text(yaml.safe_dump(settings))
        names.append(str(path))
    path = tmp_path / "queue.txt"
    path.write_text("# comment\n\n" + "\n".join(names) + "\n")
    return path


def test_goes_on_with_the_first_unfinished_recipe(listing, caplog):
    assert queue.main([str(listing), "--minutes", "1e-9"]) == 0
    assert queue.next_recipe(listing).out.endswith("first"), "one batch is not all of it"
    assert queue.main([str(listing), "--minutes", "5"]) == 0
    assert queue.next_recipe(listing).out.endswith("second")
    assert queue.main([str(listing), "--minutes", "5"]) == 0
    assert queue.next_recipe(listing) is None
    assert queue.main([str(listing), "--minutes", "5"]) == 0
    assert "every recipe of" in caplog.text


def test_further_options_change_settings(listing):
    assert queue.next_recipe(listing, ["--optim.steps", "9"]).optim.steps == 9


@pytest.mark.parametrize("argv", [["nowhere.txt", "--minutes", "1"], ["--minutes", "x", "nowhere.txt"], []])
def test_a_wrong_command_line_is_one_line(argv, capsys):
    assert run(queue.main, argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1

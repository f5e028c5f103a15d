from pathlib import Path

import pytest
import torch
import yaml

from pretrain.training import run_folder


def test_a_write_that_fails_leaves_the_old_file_and_what_a_kill_left_goes(tmp_path):
    run_folder.write_recipe(tmp_path, {"seed": 0})
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(yaml.YAMLError):
        run_folder.write_recipe(tmp_path, {"seed": object()})
    (tmp_path / ".metrics.jsonl.12345678.part.jsonl").write_text("half")
    with pytest.raises(AttributeError):
        run_folder.write_state(tmp_path, {"step": 1, "recipe": {}, "value": lambda: None}, keep=1)
    assert not run_folder.states(tmp_path)
    assert not list((tmp_path / "states").iterdir())
    assert (tmp_path / "config.yaml").read_text() == before
    run_folder.write_recipe(tmp_path, {"seed": 1})
    assert not list(tmp_path.glob("*.part*"))


def test_a_run_is_continued_with_the_settings_that_it_was_begun_with(tmp_path):
    before = {
        "seed": 0,
        "out": "a",
        "optim": {"lr": 0.1, "steps": 5},
        "data": {"corpus": "here"},
    }
    run_folder.write_state(tmp_path, {"step": 3, "recipe": before}, keep=1)
    assert run_folder.read_state(tmp_path, {**before, "out": "b", "data": {"corpus": "there"}}) is not None
    assert run_folder.read_state(tmp_path, {**before, "optim": {"lr": 0.1, "steps": 9}}) is not None
    with pytest.raises(ValueError, match=r"begun with optim\.lr 0\.1, not 0\.2: give another --out"):
        run_folder.read_state(tmp_path, {**before, "optim": {"lr": 0.2, "steps": 5}})


def test_a_run_of_version_0_1_is_compared_by_the_new_names_of_its_settings(tmp_path):
    run_folder.write_state(tmp_path, {"step": 1, "recipe": {"data": {"short": "join"}}}, keep=1)
    assert run_folder.read_state(tmp_path, {"data": {"short_clips": "join"}}) is not None
    with pytest.raises(ValueError, match=r"begun with data\.short_clips 'join', not 'repeat'"):
        run_folder.read_state(tmp_path, {"data": {"short_clips": "repeat"}})


def test_the_log_is_cut_to_what_was_saved(tmp_path):
    for step in (10, 20, 30):
        run_folder.append_metrics(tmp_path, {"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    run_folder.cut_metrics(tmp_path, 20)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 10}\n{"step": 20}\n'


def test_a_new_folder_has_no_state_and_no_log(tmp_path):
    assert run_folder.read_state(tmp_path, {}) is None
    run_folder.cut_metrics(tmp_path, 5)
    assert not list(tmp_path.iterdir())


def test_the_last_states_stay_and_the_best_beside_them(tmp_path):
    for step in range(1, 6):
        run_folder.write_state(tmp_path, {"step": step, "recipe": {}}, keep=2)
        if step == 3:
            run_folder.keep_best(tmp_path)
    assert sorted(path.name for path in (tmp_path / "states").iterdir()) == [
        "00000004.pt",
        "00000005.pt",
        "best.pt",
    ]
    assert torch.load(tmp_path / "states" / "best.pt", weights_only=True)["step"] == 3
    assert run_folder.read_state(tmp_path, {})["step"] == 5


def test_a_broken_state_is_passed_over_for_the_one_before(tmp_path, caplog):
    for step in (1, 2):
        run_folder.write_state(tmp_path, {"step": step, "recipe": {}}, keep=2)
    newest = tmp_path / "states" / "00000002.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    assert run_folder.read_state(tmp_path, {})["step"] == 1
    assert "00000002.pt: not the state of a run, or a broken one" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_disk_that_fills_while_the_log_is_written_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    message = r"batch 7 could not be saved \(No space left on device\); there is no earlier save: make room"
    with pytest.raises(OSError, match=message):
        run_folder.append_metrics(tmp_path, {"step": 7})

import os
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


def test_a_setting_that_is_newer_than_a_run_had_its_default_there(tmp_path):
    run_folder.write_state(tmp_path, {"step": 1, "recipe": {"losses": {"clip": 1.0}}}, keep=1)
    assert run_folder.read_state(tmp_path, {"losses": {"clip": 1.0, "teacher": 0.0}}) is not None
    with pytest.raises(ValueError, match=r"begun with losses\.teacher 0\.0, not 1\.0: give another --out"):
        run_folder.read_state(tmp_path, {"losses": {"clip": 1.0, "teacher": 1.0}})


def test_targets_may_have_moved(tmp_path):
    run_folder.write_state(tmp_path, {"step": 1, "recipe": {"labels": "a.tsv", "teacher": "a.npz"}}, keep=1)
    assert run_folder.read_state(tmp_path, {"labels": "b/a.tsv", "teacher": "b/a.npz"}) is not None


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


def rename_in_pickle(old, new):
    def change(content):
        assert old in content
        return content.replace(old, new)

    return change


DAMAGE = {
    "cut short": lambda content: content[:100],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "name is not UTF-8": rename_in_pickle(b"weight", b"\xffeight"),
    "another class": rename_in_pickle(b"FloatStorage", b"FlootStorage"),
    "another word": rename_in_pickle(b"storage", b"storagE"),
    "something behind": lambda content: content + b"x",
    "a web page": lambda content: b"<html>" * 1000,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_whatever_is_wrong_with_a_state_the_one_before_is_read(tmp_path, caplog, how):
    for step in (1, 2):
        state = {"step": step, "recipe": {}, "objective": {"weight": torch.full((64, 64), float(step))}}
        run_folder.write_state(tmp_path, state, keep=2)
    newest = tmp_path / "states" / "00000002.pt"
    newest.write_bytes(DAMAGE[how](newest.read_bytes()))
    state = run_folder.read_state(tmp_path, {})
    assert state["step"] == 1
    assert (state["objective"]["weight"] == 1).all()
    assert caplog.text.count("00000002.pt: not the state of a run, or a broken one (") == 1


def test_every_flipped_bit_of_a_weight_is_noticed(tmp_path):
    for step in (1, 2):
        run_folder.write_state(tmp_path, {"step": step, "recipe": {}, "w": torch.full((64, 64), float(step))}, keep=2)
    newest = tmp_path / "states" / "00000002.pt"
    whole = newest.read_bytes()
    begin = whole.index(torch.full((8,), 2.0).numpy().tobytes())
    for place in range(begin, begin + 64 * 64 * 4, 1001):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        assert run_folder.read_state(tmp_path, {})["step"] == 1


OTHER = [[], {"recipe": {}}, {"step": 2}, {"step": 2, "recipe": []}, {"step": 7, "recipe": {}}]


@pytest.mark.parametrize("content", [*OTHER, {"step": True, "recipe": {}}])
def test_a_state_with_other_content_is_passed_over(tmp_path, content):
    run_folder.write_state(tmp_path, {"step": 1, "recipe": {}}, keep=2)
    torch.save(content, tmp_path / "states" / "00000002.pt")
    assert run_folder.read_state(tmp_path, {})["step"] == 1


def test_if_no_state_is_whole_the_newest_is_named(tmp_path):
    for step in (1, 2):
        run_folder.write_state(tmp_path, {"step": step, "recipe": {}}, keep=2)
    for path in run_folder.states(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000002\.pt: not the state of a run.*give another --out to begin anew"):
        run_folder.read_state(tmp_path, {})


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_went_back_keeps_its_new_states_and_not_the_broken_one(tmp_path, keep):
    for step in (3, 6):
        run_folder.write_state(tmp_path, {"step": step, "recipe": {}}, keep=2)
    run_folder.states(tmp_path)[-1].write_bytes(b"")
    run_folder.write_state(tmp_path, {"step": 4, "recipe": {}}, keep)
    assert [int(path.stem) for path in run_folder.states(tmp_path)] == [3, 4][-keep:]
    assert run_folder.read_state(tmp_path, {})["step"] == 4


def test_an_encoder_whose_states_were_removed_is_not_replaced(tmp_path):
    (tmp_path / "last").mkdir()
    with pytest.raises(ValueError, match=r"no state to continue from.* replace the encoder .*last: give another --out"):
        run_folder.read_state(tmp_path, {})


def test_a_pipe_in_place_of_a_state_is_not_waited_for(tmp_path):
    run_folder.write_state(tmp_path, {"step": 3, "recipe": {}}, keep=2)
    os.mkfifo(tmp_path / "states" / "00000004.pt")
    assert run_folder.read_state(tmp_path, {})["step"] == 3


def test_the_batches_of_a_broken_save_are_named(tmp_path):
    (tmp_path / "last").mkdir()
    assert run_folder.steps_done(tmp_path) == 0
    for text in ("{", "[]", '{"provenance": {"steps": "x"}}'):
        (tmp_path / "last" / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json"):
            run_folder.steps_done(tmp_path)


@pytest.mark.parametrize("bytes_left", [0, 100, 3000, 20_000, 66_000, 67_000])
def test_a_disk_that_fills_anywhere_in_a_state_leaves_the_state_before(tmp_path, monkeypatch, bytes_left):
    run_folder.write_state(tmp_path, {"step": 1, "recipe": {}}, keep=1)

    class Full:
        """A file on a disk that fills."""

        def __init__(self, file):
            self.file, self.left = file, bytes_left

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: save(state, Full(file)))
    message = r"batch 2 could not be saved \(No space left on device\); the save of batch 1 stays: make room"
    with pytest.raises(OSError, match=message), run_folder.saving(tmp_path, 2):
        run_folder.write_state(tmp_path, {"step": 2, "recipe": {}, "w": torch.zeros(128, 128)}, keep=1)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["00000001.pt"]

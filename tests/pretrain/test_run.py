import pytest

from pretrain import run


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    run.write_atomically(path, lambda part: part.write_text("old"))

    def broken(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.write_atomically(path, broken)
    assert path.read_text() == "old"


def test_a_run_is_continued_with_the_settings_that_it_was_begun_with(tmp_path):
    before = {"seed": 0, "out": "a", "optim": {"lr": 0.1, "steps": 5}, "data": {"corpus": "here"}}
    run.write_state(tmp_path, {"recipe": before})
    assert run.read_state(tmp_path, {**before, "out": "b", "data": {"corpus": "there"}}) is not None
    assert run.read_state(tmp_path, {**before, "optim": {"lr": 0.1, "steps": 9}}) is not None
    with pytest.raises(ValueError, match=r"begun with optim\.lr 0\.1, not 0\.2: give another --out"):
        run.read_state(tmp_path, {**before, "optim": {"lr": 0.2, "steps": 5}})


def test_the_log_is_cut_to_what_was_saved(tmp_path):
    for step in (10, 20, 30):
        run.append_log(tmp_path, {"step": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4')
    run.cut_log(tmp_path, 20)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 10}\n{"step": 20}\n'


def test_a_new_folder_has_no_state_and_no_log(tmp_path):
    assert run.read_state(tmp_path, {}) is None
    run.cut_log(tmp_path, 5)
    assert not list(tmp_path.iterdir())

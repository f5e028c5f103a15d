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


def test_flatten_names_settings_by_their_section():
    assert dict(run.flatten({"a": 1, "b": {"c": None, "d": {"e": 2}}})) == {"a": 1, "b.c": None, "b.d.e": 2}


def test_what_changes_a_run_is_refused_and_what_does_not_is_allowed(tmp_path):
    before = {"seed": 0, "out": "a", "optim": {"lr": 0.1, "steps": 5}, "data": {"corpus": "here"}}
    run.refuse_changes(before, {**before, "out": "b", "data": {"corpus": "there"}}, tmp_path)
    run.refuse_changes(before, {**before, "optim": {"lr": 0.1, "steps": 9}}, tmp_path)
    with pytest.raises(ValueError, match=r"begun with optim\.lr 0\.1, not 0\.2"):
        run.refuse_changes(before, {**before, "optim": {"lr": 0.2, "steps": 5}}, tmp_path)


def test_a_run_of_an_older_package_may_lack_a_setting(tmp_path):
    run.refuse_changes({"seed": 0}, {"seed": 0, "brand_new": True}, tmp_path)


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

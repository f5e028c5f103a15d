import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest

from maeast_upstream.storage import atomic
from maeast_upstream.storage.atomic import remove_leftovers, replacing, replacing_folder, restore_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, text):
    with replacing_folder(folder) as part:
        (part / "a.txt").write_text(text)


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "table.csv"
    with replacing(path) as part:
        part.write_text("new")
        assert part.suffix == ".csv"
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["table.csv"]


def test_a_file_that_fails_leaves_the_earlier_one(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    fails = pytest.raises(RuntimeError)
    with fails, replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_two_writers_of_one_file_do_not_share_a_part(tmp_path):
    path = tmp_path / "table.csv"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


@pytest.mark.parametrize("name", ["folder", "no/such"])
def test_what_cannot_be_a_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder"), replacing(tmp_path / name):
        pass


def test_a_folder_appears_at_the_end(tmp_path):
    with replacing_folder(tmp_path / "set") as part:
        (part / "a.txt").write_text("new")
        assert not (tmp_path / "set").exists()
    assert (tmp_path / "set" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["set"]


def test_a_folder_replaces_the_earlier_one_as_a_whole(tmp_path):
    fill(tmp_path / "set", "old")
    (tmp_path / "set" / "b.txt").write_text("old")
    fill(tmp_path / "set", "new")
    assert names(tmp_path / "set") == ["a.txt"]
    assert (tmp_path / "set" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["set"]


def test_a_folder_that_fails_leaves_the_earlier_one(tmp_path):
    fill(tmp_path / "set", "old")
    is_stopped = pytest.raises(KeyboardInterrupt)
    with is_stopped, replacing_folder(tmp_path / "set") as part:
        (part / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "set" / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("name", ["file", "no/such"])
def test_what_cannot_be_a_folder_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder"), replacing_folder(tmp_path / name):
        pass


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    fill(tmp_path / "set", "old")
    (tmp_path / "set").rename(tmp_path / ".set.old")
    restore_folder(tmp_path / "set")
    assert (tmp_path / "set" / "a.txt").read_text() == "old"
    restore_folder(tmp_path / "set")
    assert names(tmp_path) == ["set"]


def test_a_kill_after_the_second_rename_leaves_the_new_folder(tmp_path):
    fill(tmp_path / ".set.old", "old")
    fill(tmp_path / "set", "new")
    restore_folder(tmp_path / "set")
    assert (tmp_path / "set" / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["set"]


@pytest.mark.parametrize("context", ["replacing", "replacing_folder"])
def test_what_a_killed_process_left_is_removed(tmp_path, context):
    code = (
        "import os, sys; from pathlib import Path; from maeast_upstream.storage import atomic\n"
        f"with atomic.{context}(Path(sys.argv[1])) as part:\n"
        "    part.is_dir() or part.write_text('half')\n"
        "    os._exit(9)"
    )
    path = tmp_path / "a[1].pt"
    subprocess.run([sys.executable, "-c", code, path])
    assert [name.startswith(".a[1].pt.") for name in names(tmp_path)] == [True]
    (tmp_path / ".a1.pt.0a1b2c3d.part").touch()
    remove_leftovers(path)
    assert names(tmp_path) == [".a1.pt.0a1b2c3d.part"]


@pytest.mark.parametrize("context", [replacing, replacing_folder])
def test_the_next_writer_removes_what_a_killed_process_left_and_nothing_of_a_living_one(tmp_path, context):
    path = tmp_path / "a"
    (tmp_path / ".a.0a1b2c3d.part").write_text("half")  # nobody holds a lock on it
    with context(path) as living:
        atomic._parts_at_first.cache_clear()
        with context(path) as part:
            assert part != living
        assert names(tmp_path) == sorted([living.name, "a"] if context is replacing_folder else ["a", living.name])
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("context", [replacing, replacing_folder])
def test_a_link_of_the_name_of_a_part_is_not_followed(tmp_path, monkeypatch, context):
    (tmp_path / "precious").write_text("precious")
    hexes = itertools.chain(["0a1b2c3d"], itertools.repeat("4e5f6a7b"))
    monkeypatch.setattr(atomic.uuid, "uuid4", lambda: SimpleNamespace(hex=next(hexes)))
    (tmp_path / ".a.0a1b2c3d.part").symlink_to("precious")
    with context(tmp_path / "a") as part:
        assert part.name == ".a.4e5f6a7b.part"
    (tmp_path / ".b.4e5f6a7b.part").symlink_to("precious")
    with pytest.raises(OSError, match="b"), context(tmp_path / "b"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_name_that_leaves_no_room_for_a_part_is_written(tmp_path):
    path = tmp_path / ("x" * 250 + ".json")
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_a_file_has_the_mode_of_any_new_file(tmp_path):
    with replacing(tmp_path / "a") as part:
        part.write_text("new")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_link_where_the_earlier_folder_is_kept_is_refused(tmp_path):
    fill(tmp_path / "set", "old")
    (tmp_path / ".set.old").symlink_to("elsewhere")
    with pytest.raises(ValueError, match="a link"):
        fill(tmp_path / "set", "new")
    assert (tmp_path / "set" / "a.txt").read_text() == "old"

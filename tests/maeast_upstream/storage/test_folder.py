from types import SimpleNamespace

import pytest

from maeast_upstream.storage import folder as folder_module
from maeast_upstream.storage.folder import Storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    if request.param == "local":
        yield Storage(tmp_path)
        return
    storage = Storage(f"memory://{tmp_path.name}")
    storage.make()
    yield storage
    if storage.exists():
        storage.files.rm(storage.root, recursive=True)


def test_a_file_appears_whole(storage):
    with storage.writing("a.txt") as file:
        file.write(b"hello")
        assert not storage.exists("a.txt")
    with storage.open("a.txt") as file:
        assert file.read() == b"hello"
    assert storage.names() == ["a.txt"]


def test_a_file_that_fails_leaves_the_old_one(storage):
    with storage.writing("a.txt") as file:
        file.write(b"old")

    def fail():
        with storage.writing("a.txt") as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    with storage.open("a.txt") as file:
        assert file.read() == b"old"
    assert storage.names() == ["a.txt"]


@pytest.mark.parametrize("name", ["take[1].wav", "take?.wav", "take*.wav"])
def test_a_name_with_a_wildcard_is_that_file_alone(storage, name):
    for other in ("take1.wav", name):
        with storage.writing(other) as file:
            file.write(other.encode())
    assert storage.names() == sorted(["take1.wav", name])
    with storage.open("take1.wav") as file:
        assert file.read() == b"take1.wav"
    storage.remove(name)
    assert storage.names() == ["take1.wav"]


def test_a_local_folder_with_two_colons_is_a_folder(tmp_path):
    (tmp_path / "take::2").mkdir()
    storage = Storage(f"{tmp_path}/take::2")
    assert storage.is_local
    assert storage.folder("parts").root == f"{tmp_path}/take::2/parts"


def test_what_a_killed_process_left_is_removed(storage):
    with storage.files.open(storage.path(".a.txt.0.scratch"), "wb") as file:
        file.write(b"half")
    storage.remove_scratch()
    assert storage.names() == []


def test_a_link_of_the_name_of_an_unfinished_file_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr(folder_module.uuid, "uuid4", lambda: SimpleNamespace(hex="0a1b"))
    (tmp_path / ".0a1b.scratch").symlink_to("precious")
    with pytest.raises(FileExistsError), Storage(tmp_path).writing("a.txt") as file:
        file.write(b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / ".0a1b.scratch").is_symlink()


def test_a_link_of_the_name_of_the_file_is_replaced_and_not_its_target(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.txt").symlink_to("precious")
    with Storage(tmp_path).writing("a.txt") as file:
        file.write(b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_a_name_of_any_length_that_the_file_system_takes_is_written(tmp_path):
    with Storage(tmp_path).writing("x" * 255) as file:
        file.write(b"new")
    assert Storage(tmp_path).names() == ["x" * 255]


def test_a_folder_that_is_not_there_is_empty(storage):
    missing = storage.folder("missing")
    assert not missing.exists()
    assert missing.names() == []
    missing.remove("x")
    missing.remove_if_empty()


def test_an_address_of_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="nowhere://x"):
        Storage("nowhere://x")


def test_only_an_empty_folder_is_removed(storage):
    folder = storage.folder("folder")
    folder.make()
    with folder.writing("x") as file:
        file.write(b"x")
    folder.remove_if_empty()
    assert folder.names() == ["x"]
    folder.remove("x")
    folder.remove_if_empty()
    assert not folder.exists()

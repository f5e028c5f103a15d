"""Names relative to a folder, for tables that hold on other machines."""

import os
import tarfile
from pathlib import Path

import pytest

from maeast_upstream.data.inputs import list_segments, segment_of
from maeast_upstream.data.relative_names import Root, found_root, located


@pytest.fixture
def archive(tmp_path, monkeypatch):
    folder = tmp_path / "archive"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.wav", "sub/b.wav", os.fsdecode(b"sub/\xe9.wav")):
        (folder / name).write_bytes(b"x")
    with tarfile.open(folder / "c.tar", "w") as tar:
        tar.add(folder / "a.wav", "in/a.wav")
    monkeypatch.chdir(tmp_path)
    return folder


def names_in(inputs, folder):
    return [segment.table_name for segment in list_segments(inputs, relative_to=Root(folder))]


def test_names_are_relative_whichever_way_folder_and_files_are_given(archive, tmp_path):
    expected = ["a.wav", "c.tar/in/a.wav", "sub/b.wav", "sub/\\xe9.wav"]
    for inputs in ("archive", archive, "archive/../archive", "./archive/"):
        for folder in ("archive", "archive/", archive, "archive/sub/.."):
            assert names_in(inputs, folder) == expected
    (tmp_path / "link").symlink_to(archive)
    assert names_in(archive, "link") == names_in("link", archive) == expected
    assert names_in(archive / "sub", archive) == expected[2:]
    assert names_in(archive, "/") == [f"{archive}/{name}".lstrip("/") for name in expected]


def test_files_are_read_where_they_are(archive):
    segment = next(list_segments("archive", relative_to=Root("archive")))
    assert (segment.path, segment.file) == ("archive/a.wav", "")


def test_a_manifest_a_row_of_which_is_outside_is_refused(archive, tmp_path):
    (tmp_path / "x.wav").touch()
    (tmp_path / "m.csv").write_text("path\narchive/a.wav\nx.wav\n")
    with pytest.raises(ValueError, match=r"^x\.wav: outside of archive, which paths should be relative to$"):
        names_in("m.csv", "archive")


@pytest.mark.parametrize("item", ["archive2/a.wav", "archive/../x.wav", "s3://bucket/a.wav"])
def test_a_file_outside_is_refused(archive, item):
    with pytest.raises(ValueError, match=r": outside of archive, which paths should be relative to$"):
        Root("archive").name(item)


def test_what_is_no_folder_is_refused(archive):
    for folder in ("nothing", "archive/a.wav"):
        with pytest.raises(ValueError, match=rf"^{folder}: no such folder, which paths should be relative to$"):
            Root(folder)


def test_addresses_are_relative_to_an_address_and_its_secrets_are_not_recorded():
    root = Root("http://user:secretword@host/clips/")
    assert root.recorded == "http://user:***@host/clips"
    assert root.name("http://user:***@host/clips/sub/a.wav") == "sub/a.wav"
    with pytest.raises(ValueError, match=r"http://host/a\.wav: outside of http://user:\*\*\*@host/clips/"):
        root.name("http://host/a.wav")


def test_what_a_table_calls_a_file_is_found_again(archive):
    root = Root("archive").recorded
    assert root == str(archive)
    assert found_root(root) == root
    for segment in list_segments("archive", relative_to=Root("archive")):
        found = segment_of(segment.table_name, root)
        assert Path(found.file or found.path).samefile(segment.file or segment.path)
    assert found_root(f"{root}/nothing") == found_root(None) == found_root(7) == ""
    assert located("a.wav", "") == "a.wav"
    assert located("/x/a.wav", root) == "/x/a.wav"
    assert located("s3://b/a.wav", root) == "s3://b/a.wav"
    assert located("a.wav", "s3://b/clips") == "s3://b/clips/a.wav"

import io
import zipfile

import pytest
import torch

from maeast_upstream.checkpoint import unpickle
from maeast_upstream.checkpoint.archive import check_sums, open_archive


def save(path, **options):
    content = {"cfg": {"a": 1}, "model": {f"x{i}": torch.randn(i, 7) for i in range(6)}}
    torch.save(content, path, **options)
    return content


@pytest.mark.parametrize("how", ["path", "file", "buffer", "again"])
def test_what_torch_writes_passes(tmp_path, how):
    path = tmp_path / "name.pt"
    if how == "path":
        save(path)
    elif how == "file":
        with path.open("wb") as file:
            save(file)
    else:
        save(buffer := io.BytesIO())
        path.write_bytes(buffer.getvalue())
    if how == "again":  # unpacked and packed by another program
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "again.pt", "w") as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        path = tmp_path / "again.pt"
    with open_archive(path) as archive:
        check_sums(archive)


def test_a_file_that_was_saved_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        content = save(tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with open_archive(tmp_path / "file.pt") as archive:
        check_sums(archive)
    read = unpickle.load(tmp_path / "file.pt", ("model",))["model"]
    assert all(torch.equal(value, read[name]) for name, value in content["model"].items())


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_equal_those_that_torch_reads(tmp_path, legacy):
    path = tmp_path / "file.pt"
    save(path, _use_new_zipfile_serialization=not legacy)
    expected, read = torch.load(path, weights_only=True), unpickle.load(path, ("cfg", "model"))
    assert read["cfg"] == expected["cfg"]
    assert read["model"].keys() == expected["model"].keys()
    assert all(torch.equal(value, read["model"][name]) for name, value in expected["model"].items())


@pytest.mark.parametrize("legacy", [False, True])
def test_tied_weights_share_their_memory_as_in_torch(tmp_path, legacy):
    weight = torch.randn(3, 4)
    content = {"model": {"a": weight, "b": weight.t(), "c": weight[1]}}
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=not legacy)
    read = unpickle.load(tmp_path / "file.pt", ("model",))["model"]
    assert all(torch.equal(read[name], value) for name, value in content["model"].items())
    assert read["a"].data_ptr() == read["b"].data_ptr()


def test_each_flipped_bit_of_the_content_is_noticed(tmp_path):
    path = tmp_path / "file.pt"
    save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        offset = next(entry.header_offset for entry in archive.infolist() if entry.filename.endswith("data/5"))
    start = whole.index(b"PK", offset) + 150
    for place in range(start, start + 40, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with (
            open_archive(path) as archive,
            pytest.raises(ValueError, match="checksum of .*data/5. does not match"),
        ):
            check_sums(archive)
        with pytest.raises(ValueError, match="checksum"):
            unpickle.load(path, ("model",))


@pytest.mark.parametrize("cut", [1, 30, 500])
def test_a_shorter_or_longer_file_is_refused(tmp_path, cut):
    path = tmp_path / "file.pt"
    save(path)
    whole = path.read_bytes()
    for content in (
        whole[:-cut],
        whole + b"x" * cut,
        whole[cut:],
        b"x" * cut + whole,
        whole[:300] + whole[300 + cut :],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            open_archive(path)

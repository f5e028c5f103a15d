import contextlib
import resource
import signal

import pytest
import torch

from maeast_upstream import checkpoint
from maeast_upstream.checkpoint.states import disk_errors, read_whole, write_whole


@contextlib.contextmanager
def a_disk_with_room_for(size):
    """No file may get longer than `size` bytes within, as on a disk that fills; pytest's own output may, outside."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing raises
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("size", [1, 100, 3000, 70_000, 260_000])
def test_a_state_for_which_there_is_no_room_leaves_the_one_before(tmp_path, size):
    path = tmp_path / "state.pt"
    write_whole(path, {"step": 1})
    with a_disk_with_room_for(size), pytest.raises(OSError, match=r"File too large: .*state\.pt"):
        write_whole(path, {"step": 2, "a": torch.zeros(200, 200), "b": torch.zeros(200, 200)})
    assert read_whole(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def save_folder(path, loaded):
    checkpoint.save_state(path, loaded.state, loaded.config)


@pytest.mark.parametrize("size", [1, 5000, 100_000])
@pytest.mark.parametrize("save", [checkpoint.save_published, save_folder])
def test_a_checkpoint_for_which_there_is_no_room_leaves_the_one_before(tmp_path, make_encoder, size, save):
    encoder, path = make_encoder(), tmp_path / "model"
    loaded = checkpoint.Loaded(encoder.config, encoder.network.state_dict())
    save(path, loaded)
    with a_disk_with_room_for(size), pytest.raises(OSError, match=r"File too large: .*model"):
        save(path, loaded)
    assert checkpoint.read(path).state.keys() == loaded.state.keys()
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_that_is_not_of_the_disk_stays_as_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), disk_errors(tmp_path):
        raise RuntimeError("something else")


@pytest.mark.parametrize("damage", [b"\xff", b"Z"])
def test_whatever_is_wrong_with_a_file_is_a_short_value_error(tmp_path, damage):
    path = tmp_path / "state.pt"
    write_whole(path, {"weight": torch.ones(50)})
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + damage + whole[place + 1 :])
        try:
            assert torch.equal(read_whole(path)["weight"], torch.ones(50))  # a byte that pads
        except ValueError as error:
            assert 0 < len(str(error)) < 250

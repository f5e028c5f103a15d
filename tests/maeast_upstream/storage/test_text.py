"""Text that users hand in: byte order marks, other encodings, and files without end."""

import json
import os

import pytest

from maeast_upstream.storage.text import read_json, read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_with_any_byte_order_mark(tmp_path, encoding):
    (tmp_path / "x.json").write_text('{"é": 1}', encoding=encoding)
    assert read_text(tmp_path / "x.json") == '{"é": 1}'
    assert read_json(tmp_path / "x.json") == {"é": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "not text in UTF-8"),
        (b"\xff\xfea", "not text in UTF-8"),
        (b"x" * 2000, "more than 1000 bytes"),
        (b"[" * 999, "not JSON"),
        (b"1" * 999, None),
        (b"{", "not JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, data, reason):
    (tmp_path / "x.json").write_bytes(data)
    if reason is None:
        assert read_json(tmp_path / "x.json", 1000) == json.loads(data)
        return
    with pytest.raises(ValueError, match=rf"x\.json: {reason}") as caught:
        read_json(tmp_path / "x.json", 1000)
    assert "\n" not in str(caught.value)


def test_deep_and_long_values_are_one_line(tmp_path):
    for text in ("[" * 100_000, "1" * 5000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json: not JSON"):
            read_json(tmp_path / "x.json")


def test_a_pipe_or_device_is_refused_and_a_missing_file_is_an_os_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match=rf"{name}: a pipe or device; expected a file"):
            read_text(tmp_path / name)
    for name in ("nowhere", "."):
        with pytest.raises(OSError, match=r"No such file|directory"):
            read_text(tmp_path / name)

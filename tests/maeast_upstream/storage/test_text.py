"""Text that users hand in: byte order marks, other encodings, and files without end."""

import io
import os

import pytest

from maeast_upstream.storage.json_file import read_json
from maeast_upstream.storage.text import as_lines, lines_of, read_text, read_yaml


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_with_any_byte_order_mark(tmp_path, encoding):
    (tmp_path / "x.json").write_text('{"é": 1}', encoding=encoding)
    assert read_text(tmp_path / "x.json") == '{"é": 1}'
    assert read_json(tmp_path / "x.json") == read_yaml(tmp_path / "x.json") == {"é": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"caf\xe9", "not text in UTF-8"), (b"\xff\xfea", "not text in UTF-8"), (b"x" * 2000, "more than 1000 bytes")],
)
def test_what_is_no_text_is_one_line(tmp_path, data, reason):
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.txt: {reason}") as caught:
        read_text(tmp_path / "x.txt", 1000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "\ta: b", "[" * 5000, "x: " + "1" * 5000, "a: !!python/object:os.system x"])
def test_what_is_no_yaml_is_one_line(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"x\.yaml: not YAML \(") as caught:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_text, read_json, read_yaml])
def test_a_pipe_or_device_is_refused(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match=rf"{name}: .*a pipe or device; expected a file"):
            read(tmp_path / name)


class Stream(io.RawIOBase):
    """A download that cannot go back, three bytes at a time."""

    def __init__(self, data):
        self.rest = data

    def readable(self):
        return True

    def readinto(self, buffer):
        part, self.rest = self.rest[:3], self.rest[3:]
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_a_stream_are_read(encoding):
    text = as_lines(Stream("é\r\nb\rc".encode(encoding)))
    assert list(lines_of(text, "stream")) == ["é\r\n", "b\r", "c"]


def test_a_missing_file_is_an_os_error(tmp_path):
    for name in ("nowhere", "."):
        with pytest.raises(OSError, match=r"No such file|directory"):
            read_text(tmp_path / name)

import pytest

from maeast_upstream.storage.json_file import read_json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"a": 2, "c": 3, "c": 4}}', "key 'c' occurs twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b"[-Infinity]", "Infinity is not a number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "not JSON"),
        (b"\xff\xfe{", "not UTF-8"),
        (b"<html>", "not JSON"),
        (b"", "not JSON"),
        (b" " * 2000, "larger than"),
    ],
)
def test_what_is_no_json_of_ours_is_one_short_line(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(tmp_path / "a.json", 1000 if message == "larger than" else 1 << 20)
    assert len(str(caught.value)) < 200


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than 4 MB"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None]}

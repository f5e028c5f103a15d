import os

import pytest

from maeast_upstream.display import as_name, from_name, printable, without_secrets

SIGNATURE = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:S3CRET@host/a.wav", "http://user:***@host/a.wav"),
        ("http://user:S3C@RET@host/a@b.wav", "http://user:***@host/a@b.wav"),
        ("https://:S3CRET@host:8080/a.wav", "https://:***@host:8080/a.wav"),
        ("https://ghp_S3CRET@host/a.wav", "https://***@host/a.wav"),
        ("s3://AKIA:S3C/RE+T@bucket/a.wav", "s3://AKIA:***@bucket/a.wav"),
        ("ftp://user:12S3CRET@host/a.wav", "ftp://user:***@host/a.wav"),
        ("filecache::http://user:S3CRET@host/a.wav", "filecache::http://user:***@host/a.wav"),
        ("http:/user:S3CRET@host/a.wav", "http:/user:***@host/a.wav"),  # an address that became a path
        ("ray://user:S3CRET@host:10001", "ray://user:***@host:10001"),
        (
            f"https://h/a.wav?X-Amz-Date=1&X-Amz-Signature={SIGNATURE}",
            "https://h/a.wav?X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("https://h/a.wav?X%2DAmz%2DSecurity%2DToken=S3CRET", "https://h/a.wav?X%2DAmz%2DSecurity%2DToken=***"),
        ("https://h/a.wav?x-goog-signature=S3CRET&b=1", "https://h/a.wav?x-goog-signature=***&b=1"),
        ("https://h/a b.wav?sv=2020&sig=S3CRET%2B", "https://h/a b.wav?sv=2020&sig=***"),
        ("https://h/a.wav?access_token=S3CRET#t=1", "https://h/a.wav?access_token=***#t=1"),
        ("https://h/a.wav?api-key=S3CRET", "https://h/a.wav?api-key=***"),
        (f"https://h/a.wav?x={SIGNATURE}", "https://h/a.wav?x=***"),
        ("https://h/shard.tar?sig=S3CRET/a.wav", "https://h/shard.tar?sig=***"),
    ],
)
def test_no_secret_is_left_of_an_address(address, shown):
    assert without_secrets(address) == shown
    assert without_secrets(shown) == shown
    message = f"Cannot connect to {address} within 5 s"
    assert without_secrets(message) == f"Cannot connect to {shown} within 5 s"


@pytest.mark.parametrize(
    "address",
    [
        "http://host:8080/a@b.wav",
        "http://host/a:b@c.wav",
        "http://[::1]:80/a@b.wav",
        "s3://bucket/a=b.wav?versionId=3",
        "abfs://container@account.dfs.core.windows.net/a.wav",
        "hf://datasets/org/name@main/a.wav",
        "github://org:name@main/a.wav",
        "memory://a/b.wav",
        "https://h/get?file=a_long_name_of_a_recording_in_a_folder.wav",
        "https://h/get?id=3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "https://h/get?key=clips/a.wav",
        "http://user:***2@host/a.wav?sig=***3",
        "http://***2@host/a.wav",
        "a:b@c.wav",
        "no address at all: user@host",
    ],
)
def test_an_address_without_secrets_stays(address):
    assert without_secrets(address) == address


def test_what_an_exception_repeats_of_an_address_is_taken_out_too():
    message = "401, message='Unauthorized' for user 'u' with 'S3C&RET' (S3C%26RET)"
    assert without_secrets(message, "https://u:S3C%26RET@host/") == (
        "401, message='Unauthorized' for user 'u' with '***' (***)"
    )
    assert without_secrets("a word", "https://u:a@host/") == "a word"


def test_different_paths_have_different_names():
    bytes_of = [rb"caf\xe9.wav", b"caf\xe9.wav", rb"caf\x5cxe9.wav", rb"a\b.wav", rb"a\x.wav"]
    names = [as_name(os.fsdecode(name)) for name in bytes_of]
    assert [os.fsencode(from_name(name)) for name in names] == list(bytes_of)
    assert len(set(names)) == len(names)
    assert names[1] == "caf\\xe9.wav"
    assert names[3:] == ["a\\b.wav", "a\\x.wav"]


def test_a_terminal_obeys_no_name():
    assert printable("a\x1b[2Jb\nc\x9b\u202ed é 日.wav") == "a\\x1b[2Jb\\nc\\x9b\\u202ed é 日.wav"

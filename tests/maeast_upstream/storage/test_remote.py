"""What servers answer."""

import errno

import pytest

from maeast_upstream.storage import remote

ADDRESS = "http://user:hunter2@host/a.wav?X-Amz-Signature=0123456789abcdef"


class AnswerError(Exception):
    """As aiohttp's: what a server answered."""

    def __init__(self, status, message):
        super().__init__(f"{status}, message={message!r}")
        self.status, self.message = status, message


@pytest.fixture
def server(monkeypatch):
    """Return a function that sets the cause for which there is no file, as fsspec raises it."""

    class Server:
        def fail(self, cause):
            self.cause = cause

        def info(self, path):
            raise FileNotFoundError(path) from self.cause

        open = lambda self, path, mode: self.info(path)  # noqa: E731

    server = Server()
    monkeypatch.setattr(remote, "resolve", lambda url: (server, url))
    return server


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (AnswerError(403, "Forbidden"), "the server answers 403 Forbidden"),
        (AnswerError(500, ""), "the server answers 500"),
        (ConnectionRefusedError("no connection"), "no connection"),
    ],
)
def test_a_server_that_refuses_is_not_a_missing_file(server, cause, reason):
    server.fail(cause)
    with pytest.raises(OSError, match=f"^{reason}$"):
        remote.open_remote(ADDRESS)
    with pytest.raises(ValueError, match=reason) as caught:
        remote.remote_type(ADDRESS)
    assert "hunter2" not in str(caught.value)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize("cause", [None, AnswerError(404, "Not Found"), FileNotFoundError(errno.ENOENT, "x")])
def test_a_missing_file_is_one(server, cause):
    server.fail(cause)
    assert remote.remote_type(ADDRESS) is None
    with pytest.raises(OSError, match="^no such file$"):
        remote.open_remote(ADDRESS)

import contextlib
import http.server
import io
import subprocess
import sys
import threading
import time
import zipfile

import pytest
import torch

from maeast_upstream.checkpoint import download
from maeast_upstream.storage.lock import locked


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("x/data/0", bytes(range(256)) * 4000)
    return file.getvalue()


BODY = archive()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        behaviour, *_ = self.server.plan[:1] or ["whole"]
        del self.server.plan[:1]
        self.server.requests.append(self.path)
        if behaviour == "404":
            self.send_error(404)
        elif behaviour == "html":
            self.answer(b"<html>moved</html>", "text/html")
        elif behaviour == "text":
            self.answer(b"sorry, moved")
        elif behaviour == "flipped bit":
            self.answer(BODY[:5000] + bytes([BODY[5000] ^ 1]) + BODY[5001:])
        elif behaviour == "login page":
            self.answer(b"<html>please log in</html>" * 100)
        elif behaviour == "part":
            self.answer(BODY, status=206)
        elif behaviour == "endless":
            self.answer_without_end()
        elif behaviour == "claims more than any":
            self.answer(BODY, length=1 << 50)
        elif behaviour == "claims less":
            self.answer(BODY, length=len(BODY) - 100)
        elif behaviour == "claims nonsense":
            self.answer(BODY, length="many")
        elif behaviour in REDIRECTS:
            self.send_response(302)
            self.send_header("Location", REDIRECTS[behaviour])
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.answer(BODY, cut=behaviour == "breaks off")

    def answer_without_end(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 16))

    def answer(self, body, kind="application/octet-stream", cut=False, status=200, length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *args):
        pass


REDIRECTS = {"sent to a file": "file:///etc/hostname", "sent to ftp": "ftp://127.0.0.1:1/x"}
CLAIMS = ["claims more than any", "claims less", "claims nonsense"]
FAULTS = ["404", "html", "text", "login page", "flipped bit", "breaks off", "part", "endless", *CLAIMS, *REDIRECTS]


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.plan, server.requests = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(download, "MIRRORS", [address + "first/", address + "second/"])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(download, "MAX_BYTES", 4 << 20)
    yield server
    server.shutdown()


def fetch(check=lambda path: None):
    return download.fetch("mae_ast_patch", check)


def test_it_is_downloaded_once_and_then_taken_from_the_cache(server):
    path = fetch()
    assert path.read_bytes() == BODY
    assert path.name == "chunk_patch_75_12LayerEncoder.pt"
    assert fetch() == path
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_the_second_mirror_is_tried(server, fault):
    server.plan = [fault]
    assert fetch().read_bytes() == BODY
    assert [request.split("/")[1] for request in server.requests] == ["first", "second"]


@pytest.mark.parametrize("fault", FAULTS)
def test_if_none_provides_it_the_error_names_the_file_to_put_there(server, tmp_path, fault):
    server.plan = [fault] * 2
    with pytest.raises(ValueError, match=r"offline, put the file to .*checkpoints/chunk_patch_75_12LayerEncoder\.pt"):
        fetch()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_mirror_that_hardly_sends_anything_is_given_up(server, monkeypatch):
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(download, "SLOW_BYTES_PER_SECOND", 1e12)
    with pytest.raises(ValueError, match=r"only \d+ bytes came in 0 s"):
        fetch()


def test_a_second_process_waits_and_takes_what_the_first_one_got(server, tmp_path):
    threads, paths = [], []
    for _ in range(3):
        threads.append(threading.Thread(target=lambda: paths.append(fetch(lambda path: time.sleep(0.2)))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert len(paths) == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        download.FILES["mae_ast_patch"],
        download.FILES["mae_ast_patch"] + ".sha256",
    ]


def test_one_that_waits_too_long_says_for_what(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.1)
    (tmp_path / "checkpoints").mkdir()
    lock = tmp_path / "checkpoints" / (download.FILES["mae_ast_patch"] + ".lock")
    with locked(lock, ""), pytest.raises(ValueError, match="another process has been downloading it"):
        fetch()


def test_where_there_are_no_locks_it_is_downloaded_without(server, monkeypatch):
    def no_locks(*_):
        raise NotImplementedError

    monkeypatch.setattr(download, "locked", no_locks)
    assert fetch().read_bytes() == BODY


def test_a_mirror_that_cannot_be_reached_is_passed_over(server, monkeypatch):
    monkeypatch.setattr(download, "MIRRORS", ["http://127.0.0.1:1/", download.MIRRORS[1]])
    assert fetch().read_bytes() == BODY


def test_what_fails_the_check_never_gets_the_final_name(server, tmp_path):
    def check(path):
        raise ValueError("not a MAE-AST checkpoint")

    with pytest.raises(ValueError, match="not a MAE-AST checkpoint"):
        fetch(check)
    assert list((tmp_path / "checkpoints").iterdir()) == []


FETCH = """
import sys, torch
from maeast_upstream.checkpoint import download
from maeast_upstream.storage.lock import locked
torch.hub.set_dir(sys.argv[1])
download.MIRRORS[:] = [sys.argv[2]]
print(download.fetch("mae_ast_patch", lambda path: None))
"""


@pytest.mark.slow
def test_two_processes_may_download_at_once(server, tmp_path):
    command = [sys.executable, "-c", FETCH, str(tmp_path), f"http://127.0.0.1:{server.server_port}/"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert (tmp_path / "checkpoints" / download.FILES["mae_ast_patch"]).read_bytes() == BODY
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_cached_file_that_changed_is_refused(server):
    path = fetch()
    path.write_bytes(b"PK something else")
    with pytest.raises(ValueError, match="SHA-256"):
        fetch()


def test_a_file_that_a_user_put_there_is_accepted(server, tmp_path):
    path = tmp_path / "checkpoints" / download.FILES["mae_ast_patch"]
    path.parent.mkdir()
    path.write_bytes(b"PK by hand")
    assert fetch() == path

import http.server
import threading

import pytest
import torch

from maeast_upstream.checkpoint import download


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        behaviour, *_ = self.server.plan[:1] or ["whole"]
        del self.server.plan[:1]
        body = self.server.body
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.server.starts.append(start)
        if behaviour == "404":
            self.send_error(404)
            return
        if behaviour == "html":
            self.answer(200, b"<html>moved</html>", "text/html")
            return
        if behaviour == "text":
            self.answer(200, b"sorry, moved", "application/octet-stream")
            return
        if behaviour == "no resume":
            start = 0
        part = body[start:]
        self.answer(
            206 if start else 200,
            part,
            "application/octet-stream",
            cut=behaviour == "breaks off",
        )

    def answer(self, status, body, kind, cut=False):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body = b"PK" + bytes(range(256)) * 4000
    server.plan, server.starts = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(download, "MIRRORS", [address + "first/", address + "second/"])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    yield server
    server.shutdown()


def fetch(check=lambda path: None):
    return download.fetch("mae_ast_patch", check)


def test_it_is_fetched_once_and_then_taken_from_the_cache(server):
    path = fetch()
    assert path.read_bytes() == server.body
    assert path.name == "chunk_patch_75_12LayerEncoder.pt"
    assert fetch() == path
    assert server.starts == [0]


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server):
    server.plan = ["breaks off", "breaks off"]
    assert fetch().read_bytes() == server.body
    assert server.starts == [0, len(server.body) // 2, len(server.body) * 3 // 4]


def test_a_server_that_cannot_resume_gives_all_of_it_again(server):
    server.plan = ["breaks off", "no resume"]
    assert fetch().read_bytes() == server.body


@pytest.mark.parametrize("behaviour", ["404", "html", "text"])
def test_the_second_mirror_is_tried(server, behaviour):
    server.plan = [behaviour]
    assert fetch().read_bytes() == server.body


@pytest.mark.parametrize("behaviour", ["404", "html", "text", "breaks off"])
def test_if_none_gives_it_the_error_says_what_to_put_where(server, tmp_path, behaviour):
    server.plan = [behaviour] * 20
    with pytest.raises(
        ValueError,
        match="offline, put the file to .*checkpoints/chunk_patch_75_12LayerEncoder.pt",
    ):
        fetch()
    assert not (tmp_path / "checkpoints" / "chunk_patch_75_12LayerEncoder.pt").exists()


def test_what_does_not_parse_never_gets_the_final_name(server, tmp_path):
    def check(path):
        raise ValueError("not a MAE-AST checkpoint")

    with pytest.raises(ValueError, match="not a MAE-AST checkpoint"):
        fetch(check)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_cached_file_that_changed_is_refused(server):
    path = fetch()
    path.write_bytes(b"PK something else")
    with pytest.raises(ValueError, match="SHA-256"):
        fetch()


def test_a_file_that_was_put_there_by_hand_is_taken(server, tmp_path):
    path = tmp_path / "checkpoints" / download.FILES["mae_ast_patch"]
    path.parent.mkdir()
    path.write_bytes(b"PK by hand")
    assert fetch() == path


def test_a_mirror_that_cannot_be_reached_is_asked_once(server, monkeypatch, caplog):
    monkeypatch.setattr(download, "MIRRORS", ["http://127.0.0.1:1/", download.MIRRORS[1]])
    assert fetch().read_bytes() == server.body
    assert not caplog.records

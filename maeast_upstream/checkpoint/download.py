"""Downloads the published checkpoints by name, once, into the cache of torch's hub.

Neither `pooch` nor `torch.hub.download_url_to_file` is used: no hash of these files is published, and torch's function
has no time limit and accepts a transfer that was cut short. A transfer that ends early begins anew at the next mirror:
no part of a file is asked for, which a mirror may answer with part of another file.
"""

import contextlib
import hashlib
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from maeast_upstream.checkpoint.archive import check_sums, open_archive
from maeast_upstream.messages import shortened
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.lock import locked

FILES = {
    "mae_ast_patch": "chunk_patch_75_12LayerEncoder.pt",
    "mae_ast_frame": "random_frame_75_12LayerEncoder.pt",
}
MIRRORS = [
    "https://www.cs.utexas.edu/~harwath/model_checkpoints/mae_ast/",
    "https://saltlab.cs.utexas.edu/downloads/model_checkpoints/mae_ast/",
]
PICKLE_MAGIC = b"\x80"
"""First byte of a file that torch wrote before 1.6; later ones are zip archives."""
BLOCK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
MAX_BYTES = 4 << 30
"""A checkpoint of the paper's size with its optimizer has less than half of it."""
SLOW_SECONDS, SLOW_BYTES_PER_SECOND = 60.0, 10_000
"""After that time, a slower transfer is given up: it would take days."""
WAIT_SECONDS = 3600.0
"""How long to wait for another process that downloads the same file."""


def fetch(name: str, check: Callable[[Path], object]) -> Path:
    """Return the file of a published checkpoint from the cache, after downloading it if it is not there.

    One process downloads, and others wait for it. The download has a temporary name of its own, and gets its final
    name after the checksums of the archive and ``check`` have passed. Because no hash is published, the SHA-256 of the
    download is kept beside it and compared at each later call.

    Args:
        name: A key of `FILES`.
        check: Reads the file and raises ValueError if it is not the checkpoint that it should be.

    Raises:
        ValueError: No mirror provided the file, or the file in the cache has changed since its download.
    """
    path = _hub_folder() / "checkpoints" / FILES[name]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.exists():
                _download(name, path, check)
                return path
    _compare_hash(path)
    return path


def _hub_folder() -> Path:
    """The cache of torch's hub: what `torch.hub.get_dir` returns, without loading torch for it."""
    if torch := sys.modules.get("torch"):
        return Path(torch.hub.get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for another process that downloads the same file; where a file system has no locks, do not."""
    refusal = f"{path}: another process has been downloading it for {WAIT_SECONDS / 60:.0f} minutes"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(NotImplementedError):
            stack.enter_context(locked(path.with_name(path.name + ".lock"), refusal, WAIT_SECONDS))
        yield


def _download(name: str, path: Path, check: Callable[[Path], object]) -> None:
    failures, part = [], path
    for mirror in MIRRORS:
        try:
            with replacing(path) as part:
                _transfer(mirror + path.name, part)
                _check_archive(part)
                check(part)
                with replacing(_hash_path(path)) as hash_part:
                    hash_part.write_text(_sha256(part) + "\n")
            return
        except (OSError, HTTPException, ValueError) as error:
            reason = str(error).replace(f"{part}: ", "")
            failures.append(f"{mirror}: {shortened(reason)}")
    raise ValueError(
        f"could not download {name} ({'; '.join(failures)}); offline, put the file to {path} or give its path"
    )


def _transfer(url: str, part: Path) -> None:
    """Write what a server sends to ``part``; an error if it is cut short, too long, too slow or no file."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as file:
        if response.status != 200:
            raise ConnectionError(f"the server answered with status {response.status}, not with the whole file")
        if urlsplit(response.url).scheme not in (urlsplit(url).scheme, "https"):
            raise ValueError(f"the server sent us on to {response.url}")
        if "html" in response.headers.get("Content-Type", ""):
            raise ValueError("the server answered with a web page, not a checkpoint")
        size = int(response.headers.get("Content-Length") or 0)
        limit, start = min(size or MAX_BYTES, MAX_BYTES), time.monotonic()
        if size > MAX_BYTES:
            raise ValueError(f"the file has {size} bytes; a checkpoint has at most {MAX_BYTES}")
        with progress_bar(total=size or None, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
            while block := response.read1(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
                seconds = time.monotonic() - start
                if file.tell() > limit:
                    raise ValueError(f"the file does not end after {limit} bytes")
                if seconds > SLOW_SECONDS and file.tell() < seconds * SLOW_BYTES_PER_SECOND:
                    raise ConnectionError(f"only {file.tell()} bytes came in {seconds:.0f} s")
        if size and file.tell() != size:
            raise ConnectionError(f"the transfer ended after {file.tell()} of {size} bytes")


def _check_archive(part: Path) -> None:
    """Raise ValueError for a file that torch did not write, or whose checksums do not match; torch ignores those."""
    with part.open("rb") as file:
        magic = file.read(2)
    if magic[:1] == PICKLE_MAGIC:
        return
    if magic != b"PK":
        raise ValueError("not a checkpoint file but, for example, a web page")
    with open_archive(part) as archive:
        check_sums(archive)


def _compare_hash(path: Path) -> None:
    """Refuse a file that has changed since its download; one that a user put there has no hash and is accepted."""
    if not _hash_path(path).exists():
        return
    expected, actual = _hash_path(path).read_text(errors="replace").strip()[:64], _sha256(path)
    if actual != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {actual[:12]}..., but {expected[:12]}... was downloaded; "
            "remove the file to download it again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")

"""Downloads the published checkpoints by name, once, into the cache of torch's hub.

Neither `pooch` nor `torch.hub.download_url_to_file` is used: no hash of these files is published, and torch's function
has no time limit and accepts a transfer that was cut short.
"""

import hashlib
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import torch

from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.atomic import replacing

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


def fetch(name: str, check: Callable[[Path], object]) -> Path:
    """Return the file of a published checkpoint from the cache, after downloading it if it is not there.

    The download has a temporary name of its own, so that several processes may call this at once. It gets its final
    name after the checksums of the archive and ``check`` have passed. Because no hash is published, the SHA-256 of the
    download is kept beside it and compared at each later call.

    Args:
        name: A key of `FILES`.
        check: Reads the file and raises ValueError if it is not the checkpoint that it should be.

    Raises:
        ValueError: No mirror provided the file, or the file in the cache has changed since its download.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[name]
    if path.exists():
        _compare_hash(path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for mirror in MIRRORS:
        try:
            with replacing(path) as part:
                _transfer(mirror + path.name, part)
                _check_archive(part)
                check(part)
                with replacing(_hash_path(path)) as hash_part:
                    hash_part.write_text(_sha256(part) + "\n")
            return path
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{mirror}: {' '.join(str(error).split())[:120]}")
    raise ValueError(
        f"could not download {name} ({'; '.join(failures)}); offline, put the file to {path} or give its path"
    )


def _transfer(url: str, part: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, part.open("wb") as file:
        if "html" in response.headers.get("Content-Type", ""):
            raise ValueError("the server answered with a web page, not a checkpoint")
        size = int(response.headers.get("Content-Length") or 0)
        with progress_bar(total=size or None, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
        if size and file.tell() != size:
            raise ConnectionError(f"the transfer ended after {file.tell()} of {size} bytes")


def _check_archive(part: Path) -> None:
    """Raise ValueError for a file that torch did not write, or whose checksums do not match; torch ignores those."""
    try:
        with zipfile.ZipFile(part) as archive:
            if broken := archive.testzip():
                raise ValueError(f"the checksum of {broken} in the download does not match")
    except zipfile.BadZipFile as error:
        with part.open("rb") as file:
            if file.read(1) != PICKLE_MAGIC:
                raise ValueError(f"not a checkpoint file ({error})") from error


def _compare_hash(path: Path) -> None:
    """Refuse a file that has changed since its download; one that a user put there has no hash and is accepted."""
    if not _hash_path(path).exists():
        return
    expected, actual = _hash_path(path).read_text().strip(), _sha256(path)
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

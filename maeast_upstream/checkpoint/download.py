"""The published checkpoints by name: fetched once into torch's hub cache, resumable, mirrors tried in order."""

import hashlib
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

FILES = {
    "mae_ast_patch": "chunk_patch_75_12LayerEncoder.pt",
    "mae_ast_frame": "random_frame_75_12LayerEncoder.pt",
}
MIRRORS = [
    "https://www.cs.utexas.edu/~harwath/model_checkpoints/mae_ast/",
    "https://saltlab.cs.utexas.edu/downloads/model_checkpoints/mae_ast/",
]
MAGIC = (b"PK", b"\x80")
"""How torch's files begin: a zip archive, or a pickle before torch 1.6."""
BLOCK_BYTES = 1 << 18
TIMEOUT_S = 30.0
TRIES = 3
"""At each mirror: a transfer that broke off goes on where it was."""


def fetch(name: str, check: Callable[[Path], object]) -> Path:
    """The file of a published checkpoint, from the cache or else downloaded.

    Args:
        name: a key of `FILES`.
        check: reads the file and raises if it is not what it should be; only then it gets its final name. No hash is
            published, so the SHA-256 of that file is kept beside it and compared from then on.

    Raises:
        ValueError: no mirror gave it, or the cached file has changed.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[name]
    if path.exists():
        _compare(path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures = []
    for mirror in MIRRORS:
        try:
            _download(mirror + path.name, part)
            check(part)
            _finish(part, path)
            return path
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{mirror}: {' '.join(str(error).split())[:120]}")
            if isinstance(error, ValueError):  # complete, but not a checkpoint: nothing to go on from
                part.unlink(missing_ok=True)
    raise ValueError(
        f"could not download {name} ({'; '.join(failures)}); offline, put the file to {path} or give its path"
    )


def _download(url: str, part: Path) -> None:
    for attempt in range(1, TRIES + 1):
        before = _size(part)
        try:
            _transfer(url, part)
            return
        except urllib.error.HTTPError:
            raise
        except (OSError, HTTPException) as error:
            if attempt == TRIES or _size(part) == before:  # a server that gives nothing is not asked again
                raise
            logger.warning("%s broke off (%s); going on", url, error)


def _transfer(url: str, part: Path) -> None:
    """Fetch what is still missing of ``url`` into ``part``."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is complete, or longer than the file
            part.unlink()
            raise ConnectionError("the part on disk did not fit; starting again") from error
        raise
    with response:
        if "html" in response.headers.get("Content-Type", ""):
            raise ValueError("the server answered with a web page, not a checkpoint")
        if response.status != 206:  # the server does not resume: all of it comes again
            have = 0
        size = int(response.headers.get("Content-Length") or 0)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                total=have + size or None,
                initial=have,
                unit="B",
                unit_scale=True,
                desc=part.name.removesuffix(".part"),
            ) as bar,
        ):
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
        if size and part.stat().st_size < have + size:
            raise ConnectionError(f"{part.stat().st_size} of {have + size} bytes came")
    with part.open("rb") as file:
        if not file.read(2).startswith(MAGIC):
            raise ValueError("not a checkpoint file")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _finish(part: Path, path: Path) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _hash_file(path).write_text(digest + "\n")
    os.replace(part, path)


def _compare(path: Path) -> None:
    """Refuse a cached file that is not the one that was downloaded; one put there by hand is taken as it is."""
    if not _hash_file(path).exists():
        return
    expected = _hash_file(path).read_text().strip()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise ValueError(
            f"{path}: SHA-256 {digest[:12]}... is not the {expected[:12]}... of its download; remove it to fetch again"
        )


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")

"""Which checkpoint a name stands for: its config and its fingerprint, without torch where that is possible.

A folder is read and hashed. Reading another file takes torch, so its identity is remembered in the user's cache folder.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maeast_upstream.checkpoint.layout import (
    WEIGHTS_NAME,
    check_header,
    check_shapes,
    encoder_folder,
    read_folder_config,
)
from maeast_upstream.checkpoint.projection import Projection, read_projection
from maeast_upstream.config import EncoderConfig
from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.version import __version__

SECTIONS = ("model", "frontend", "normalisation")
"""The parts of a config that affect features."""
HALF_OR_MORE = ("F16", "F32", "F64")
"""Types of numbers in safetensors that numpy has, too, and that a checkpoint may hold."""
MAX_REMEMBERED = 32
"""Checkpoints that are remembered; with their configs they are far below the limit of a JSON file."""


@dataclass(frozen=True)
class Identity:
    """What identifies a checkpoint's results."""

    config: EncoderConfig
    """The content of its config.json."""
    fingerprint: str
    """See `maeast_upstream.fingerprint.fingerprint`."""
    projection: Projection | None = None
    """What its folder stores for readouts with dims."""


def fingerprint_of(config: EncoderConfig, tensors: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of settings and weights.

    Args:
        config: Its sections model, frontend and normalisation count.
        tensors: Names and float32 arrays, sorted by name.
    """
    content = config.to_dict()
    digest = hashlib.sha256(json.dumps({name: content[name] for name in SECTIONS}, sort_keys=True).encode())
    for name, values in tensors:
        digest.update(name.encode())
        digest.update(values)
    return digest.hexdigest()


def identity_of(path: Path) -> Identity | None:
    """Return the identity of a checkpoint, see `resolve`, as far as it is known without torch; None if it is not.

    That it can be loaded is known only where its fingerprint equals that of an encoder that was loaded.
    """
    if not path.is_dir():
        return _remembered(path)
    try:
        folder = encoder_folder(path)
        config = read_folder_config(folder)
        return Identity(config, _hashed(config, folder / WEIGHTS_NAME), read_projection(folder, config))
    except (ValueError, OSError):  # what is wrong with it will be said where it is loaded
        return None


def _hashed(config: EncoderConfig, path: Path) -> str:
    """Return the fingerprint of a folder's weights, which are converted to float32 as they are for the network.

    Raises:
        ValueError: They are broken, of another network, or of a type that numpy lacks.
    """
    from safetensors import SafetensorError, safe_open

    check_header(path)
    try:
        with safe_open(path, "numpy") as file:
            stored = {name: file.get_slice(name) for name in sorted(file.keys())}
            check_shapes(config, {name: tuple(part.get_shape()) for name, part in stored.items()})
            if not all(part.get_dtype() in HALF_OR_MORE for part in stored.values()):
                raise ValueError("types that numpy lacks")
            tensors = ((name, np.ascontiguousarray(file.get_tensor(name), np.float32)) for name in stored)
            return fingerprint_of(config, tensors)
    except SafetensorError as error:
        raise ValueError("broken") from error


def stamp_of(path: Path) -> str | None:
    """Return what changes with a checkpoint's file: its path, size and times; None for a folder or no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    facts = [os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    return hashlib.sha256(json.dumps([__version__, *facts]).encode()).hexdigest()


def remember(path: Path, stamp: str | None, identity: Identity) -> None:
    """Remember the identity of a checkpoint file; where the cache cannot be written to, it is loaded the next time.

    Args:
        path: The checkpoint; of a folder nothing is remembered.
        stamp: Its `stamp_of` before it was loaded.
        identity: Of what was loaded.
    """
    if stamp is None or stamp != stamp_of(path) or _remembered(path) == identity:
        return
    entry = {"config": identity.config.to_dict(), "fingerprint": identity.fingerprint}
    known = {key: value for key, value in _read().items() if key != stamp}
    kept = {**dict(list(known.items())[1 - MAX_REMEMBERED :]), stamp: entry}
    try:
        path = cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(kept))
    except (OSError, ValueError, RuntimeError):
        return


def _remembered(path: Path) -> Identity | None:
    entry = _read().get(stamp_of(path) or "")
    if not isinstance(entry, dict) or not isinstance(entry.get("fingerprint"), str):
        return None
    try:
        return Identity(EncoderConfig.from_dict(entry.get("config")), entry["fingerprint"])
    except ValueError:
        return None


def _read() -> dict[str, Any]:
    try:
        content = read_json(cache_path())
    except (OSError, ValueError, RuntimeError):
        return {}
    return content if isinstance(content, dict) else {}


def cache_path() -> Path:
    """The file of what is remembered, in $XDG_CACHE_HOME or ~/.cache; RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maeast" / "checkpoints.json"

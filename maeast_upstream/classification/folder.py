"""The folder of a classifier: classifier.json with its settings, classifier.safetensors with its numbers; no code.

A fine-tuned encoder lies beside them, in ``encoder/``. Classifiers of clips and of events share this form.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maeast_upstream.checks import quote
from maeast_upstream.messages import shortened
from maeast_upstream.storage.atomic import remove_leftovers, replacing
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.version import __version__

SETTINGS_NAME, ARRAYS_NAME, ENCODER_NAME = "classifier.json", "classifier.safetensors", "encoder"
FORMAT = 1
"""Rises when an older version could not read the folder rightly."""
MAX_ARRAYS_BYTES = 4 << 30
"""10,000 labels of 100,000 dimensions."""
MAX_HEADER_BYTES = 1 << 20
MAX_SETTINGS_BYTES = 64 << 20
"""Scores of 400,000 labels."""


class CheckpointSource(NamedTuple):
    """The encoder of a classifier."""

    checkpoint: str
    """Its name, path or hub id."""
    fingerprint: str
    """SHA-256 of its weights and settings."""


def write_classifier(
    folder: Path, kind: str, settings: Mapping[str, Any], source: CheckpointSource, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write the two files; both are complete before the first gets its name, and classifier.json names the other.

    Args:
        folder: Made if it does not exist; other files in it stay.
        kind: What it classifies: clips or events.
        settings: Plain data, beside the encoder's and those of the file itself.
        source: The encoder; ``folder``/encoder is stored as part of the folder, which can then be moved.
        arrays: Stored as float32.

    Raises:
        ValueError: ``folder`` is a file, or is inside a folder that does not exist.
    """
    from safetensors.numpy import save

    refuse_unwritable_folder(folder, force=True)
    content = save({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()})
    is_inside = Path(source.checkpoint).absolute() == (folder / ENCODER_NAME).absolute()
    encoder = {"checkpoint": None if is_inside else source.checkpoint, "fingerprint": source.fingerprint}
    head = {"kind": kind, "format": FORMAT, "version": __version__, "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps({**head, **encoder, **settings}, indent=2, allow_nan=False)
    is_new = not folder.exists()
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder / SETTINGS_NAME)
    remove_leftovers(folder / ARRAYS_NAME)
    try:
        with replacing(folder / SETTINGS_NAME) as settings_part, replacing(folder / ARRAYS_NAME) as arrays_part:
            arrays_part.write_bytes(content)
            settings_part.write_text(text + "\n", encoding="utf-8")
            shutil.copymode(settings_part, arrays_part)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def refuse_unwritable_folder(folder: Path, force: bool = False, remedy: str = "remove it") -> None:
    """Raise ValueError if a classifier cannot be written to a folder; call it before the work.

    Args:
        folder: Its name; it need not exist, and other files in it stay.
        force: Whether to replace a classifier in it.
        remedy: What else a user can do than give another name.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file; expected the name of a folder")
    if not folder.parent.is_dir():
        raise ValueError(f"{folder.parent}: no such folder to make {folder.name} in")
    if is_classifier(folder) and not force:
        raise ValueError(f"{folder} holds a classifier already; give another name, or {remedy}")


def is_classifier(folder: Path) -> bool:
    """Whether a folder holds a classifier."""
    return (folder / SETTINGS_NAME).is_file()


def read_kind(folder: Path) -> str:
    """Return what the classifier in a folder classifies, ``clips`` or ``events``; ValueError as `read_classifier`."""
    kind = _read_settings(folder)["kind"]
    return str(kind)


def read_classifier(
    folder: Path, kind: str, names: Collection[str]
) -> tuple[dict[str, Any], CheckpointSource, dict[str, np.ndarray]]:
    """Read the two files.

    Args:
        folder: What `write_classifier` wrote.
        kind: What it should classify.
        names: The arrays that it should have.

    Returns:
        Its settings, unchecked but for those of the file itself; its encoder; and its arrays, finite float32.

    Raises:
        ValueError: It is no such folder, is broken, is of another kind, or was written by a later version.
    """
    settings = _read_settings(folder)
    if settings["kind"] != kind:
        raise ValueError(f"{folder}: a classifier of {settings['kind']}; expected one of {kind}")
    settings = {name: value for name, value in settings.items() if name not in ("kind", "format", "version")}
    checkpoint, fingerprint = settings.pop("checkpoint", ""), settings.pop("fingerprint", "")
    # absolute, so that it is never the name of a checkpoint on the hub where the folder is missing
    checkpoint = str((folder / ENCODER_NAME).absolute()) if checkpoint is None else checkpoint
    path = folder / ARRAYS_NAME
    try:
        arrays = _read_arrays(path, settings.pop("sha256", None), names)
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: no {ARRAYS_NAME} in it") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return settings, CheckpointSource(checkpoint, fingerprint), arrays


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_NAME
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one that maeast fit, probe or finetune wrote")
    if not path.is_file():
        raise ValueError(f"{folder}: not a classifier (no {SETTINGS_NAME}); maeast fit, probe and finetune write one")
    try:
        settings = read_json(path, MAX_SETTINGS_BYTES)
        if not isinstance(settings, dict) or not isinstance(settings.get("kind"), str):
            raise ValueError("not the settings of a classifier")
        if settings["kind"] not in ("clips", "events"):
            raise ValueError(f"kind must be clips or events, got {quote(settings['kind'])}")
        if settings.get("format") != FORMAT:
            raise ValueError(
                f"a classifier of format {quote(settings.get('format'))}, written by version "
                f"{quote(settings.get('version'))}; this version, {__version__}, reads format {FORMAT}: fit it again"
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return settings


def _read_arrays(path: Path, digest: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("a pipe, device or folder; expected a file")
    if size > MAX_ARRAYS_BYTES:
        raise ValueError(f"has {size} bytes, which no classifier has")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if header > min(MAX_HEADER_BYTES, size):
            raise ValueError("not a safetensors file, or a broken one")
        file.seek(0)
        content = file.read(size + 1)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"broken, or not the file that {SETTINGS_NAME} belongs to; fit the classifier again")
    try:
        arrays = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not a safetensors file, or a broken one ({shortened(error)})") from error
    if wrong := sorted(set(names) ^ set(arrays)):
        raise ValueError(f"tensor {quote(wrong[0])} is {'missing' if wrong[0] in names else 'unexpected'}")
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ValueError(f"{name} holds {array.dtype}; expected float32")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    return dict(arrays)

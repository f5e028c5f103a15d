"""Hashes of an encoder's weights and settings, which identify its results."""

import hashlib
import json
from pathlib import Path
from typing import Any

from maeast_upstream.encoder import Encoder, Precision, load_model


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder's weights and of the parts of its configuration that affect its features."""
    config = encoder.config.to_dict()
    sections = {name: config[name] for name in ("model", "frontend", "normalisation")}
    digest = hashlib.sha256(json.dumps(sections, sort_keys=True).encode())
    for name, value in sorted(encoder.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def load_same(
    name: str,
    digest: str,
    given: str | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> Encoder:
    """Load the encoder that a table or a classifier was made with.

    Args:
        name: The checkpoint's name as it was recorded, see `load_model`; "bundled" for the one in the package.
        digest: Its `fingerprint` as it was recorded.
        given: Where the user says that it is, if not under its name.
        device: As in `load_model`.
        precision: As in `load_model`.

    Raises:
        ValueError: The checkpoint cannot be loaded, or is another one now.
    """
    source = given or name
    is_bundled = source == "bundled" and not Path(source).exists()
    try:
        encoder = load_model(None if is_bundled else source, device, precision)
    except ValueError as error:
        hint = "" if given else "; --checkpoint names the place where it is now"
        raise ValueError(f"{error}{hint}") from error
    if fingerprint(encoder) != digest:
        raise ValueError(
            f"{source}: not the checkpoint that the vectors were made with (other weights or settings); "
            "give that one with --checkpoint"
        )
    return encoder


def results_key(encoder: Encoder, **settings: Any) -> str:
    """SHA-256 of everything that affects an encoder's embeddings: its `fingerprint`, its readout, and ``settings``."""
    parts = {"weights": fingerprint(encoder), "readout": encoder.config.to_dict()["readout"], **settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

"""Hashes of an encoder's weights and settings, which identify its results."""

import hashlib
import json
from typing import Any

from maeast_upstream.encoder import Encoder


def fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder's weights and of the parts of its configuration that affect its features."""
    config = encoder.config.to_dict()
    sections = {name: config[name] for name in ("model", "frontend", "normalisation")}
    digest = hashlib.sha256(json.dumps(sections, sort_keys=True).encode())
    for name, value in sorted(encoder.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def results_key(encoder: Encoder, **settings: Any) -> str:
    """SHA-256 of everything that affects an encoder's embeddings: its `fingerprint`, its readout, and ``settings``."""
    parts = {"weights": fingerprint(encoder), "readout": encoder.config.to_dict()["readout"], **settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

"""Hashes of an encoder's weights and settings, which identify its results."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maeast_upstream.checkpoint.identity import Identity, fingerprint_of
from maeast_upstream.checkpoint.places import resolve
from maeast_upstream.readout import Readout

if TYPE_CHECKING:  # imported when they are needed, so that a finished output loads no torch
    from maeast_upstream.encoder import Encoder, Precision


def fingerprint(model: "Encoder | Identity", *readouts: Readout) -> str:
    """SHA-256 of an encoder's weights and of the parts of its configuration that affect its features.

    Args:
        model: The encoder, or what is known of it without torch.
        readouts: What the results are read by; if one of them whitens or has dims, the hash is also one of the
            projection.
    """
    if isinstance(model, Identity):
        digest = model.fingerprint
    else:
        state = sorted(model.network.state_dict().items())
        tensors = ((name, value.detach().cpu().contiguous().numpy()) for name, value in state)
        digest = fingerprint_of(model.config, tensors)
    return _projected(digest, model) if any(readout.projected for readout in readouts) else digest


def has_fingerprint(model: "Encoder | Identity", digest: object) -> bool:
    """Whether a `fingerprint` is that of a model, with or without its projection."""
    weights = fingerprint(model)
    return digest in (weights, _projected(weights, model))


def _projected(weights: str, model: "Encoder | Identity") -> str:
    """Return the hash of a model's weights and projection from that of its weights."""
    projection = model.projection.digest if model.projection else ""
    return hashlib.sha256(f"{weights} {projection}".encode()).hexdigest()


def load_same(
    name: str,
    digest: str,
    given: str | None = None,
    device: str | None = None,
    precision: "Precision | None" = None,
) -> "Encoder":
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
    from maeast_upstream.encoder import load_model

    with _naming_the_option(given):
        encoder = load_model(given or name, device, precision)
    if not has_fingerprint(encoder, digest):
        raise ValueError(
            f"{given or name}: not the checkpoint that the vectors were made with (other weights, settings or "
            "projection); give that one with --checkpoint"
        )
    return encoder


def place_of(name: str, given: str | None = None) -> Path:
    """Return where the checkpoint is that `load_same` would load; ValueError if there is none."""
    with _naming_the_option(given):
        return resolve(given or name)


@contextlib.contextmanager
def _naming_the_option(given: str | None) -> Iterator[None]:
    """A context whose ValueErrors end with the option that the user has not given."""
    try:
        yield
    except ValueError as error:
        hint = "" if given else "; --checkpoint names the place where it is now"
        raise ValueError(f"{error}{hint}") from error


def results_key(encoder: "Encoder", *readouts: Readout, **settings: Any) -> str:
    """SHA-256 of everything that affects an encoder's embeddings.

    Args:
        encoder: Its `fingerprint` and its own readout count.
        readouts: Others that it is read by, if there are any.
        settings: What else counts, as plain data.
    """
    weights = fingerprint(encoder, encoder.config.readout, *readouts)
    parts = {"weights": weights, "readout": encoder.config.to_dict()["readout"], **settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

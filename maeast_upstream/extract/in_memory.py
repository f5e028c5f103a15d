"""Embeds inputs into memory, for commands that can take audio in place of a table."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maeast_upstream.data.embeddings import Embeddings
from maeast_upstream.data.windows import Windows
from maeast_upstream.encoder import Encoder
from maeast_upstream.extract.api import embed_files
from maeast_upstream.readout import Readout

logger = logging.getLogger(__name__)
MAX_LISTED_FAILURES = 5


def embed_in_memory(
    inputs: Sequence[str | Path],
    encoder: Encoder,
    readout: Readout | None = None,
    windows: Windows | None = None,
    workers: int = 1,
) -> tuple[Embeddings, list[tuple[str, str]]]:
    """Embed all inputs, one vector per clip or window.

    Args:
        inputs: What `embed_files` takes.
        encoder: In eval mode.
        readout: None for the checkpoint's own.
        windows: How to cut clips; None for one row per clip.
        workers: Processes that decode; 0 for a thread.

    Returns:
        The rows, and the name and reason of each input that could not be read, which are also logged.

    Raises:
        ValueError: An input does not exist, or none can be read.
    """
    readout = readout or encoder.config.readout
    errors: list[tuple[str, str]] = []
    rows = list(
        embed_files(
            inputs,
            encoder,
            readout=readout,
            windows=windows,
            workers=workers,
            on_error=lambda name, reason: errors.append((name, reason)),
            on_warning=lambda name, note: logger.warning("%s: %s", name, note),
        )
    )
    if not rows:
        raise ValueError(f"none of the inputs could be read; first error: {errors[0][1]}")
    for name, reason in errors[:MAX_LISTED_FAILURES]:
        logger.warning("left out: %s", reason if name in reason else f"{name}: {reason}")
    if len(errors) > MAX_LISTED_FAILURES:
        logger.warning("left out: %d more", len(errors) - MAX_LISTED_FAILURES)
    layer = str(readout.layer)
    embeddings = Embeddings(
        paths=[row["path"] for row in rows],
        vectors=np.stack([row["vector"] for row in rows]),
        start_ms=np.array([row["start_ms"] for row in rows]),
        end_ms=np.array([row["end_ms"] for row in rows]),
        segments=np.array([row["segment"] for row in rows], np.int64),
        layer=layer,
        layers=(layer,),
    )
    return embeddings, errors

"""Reads the encoder that s3prl fine-tuned (``-f``) from a states-*.ckpt of an experiment."""

import dataclasses
from pathlib import Path
from typing import Any

from maeast_upstream import checkpoint
from maeast_upstream.checkpoint import Loaded, unpickle
from maeast_upstream.checkpoint.folder import validated
from maeast_upstream.checks import quote
from maeast_upstream.expert import PRETRAINING_PARTS

PREFIX = "encoder.network."
"""Begins the names of the network's weights in the upstream."""
ENTRIES = ("Args", "Upstream", "Downstream")


def read_tuned(path: Path, parent: str | None = None) -> Loaded:
    """Read the fine-tuned encoder of an experiment.

    s3prl's file holds the weights that an upstream uses. The config, and the decoder, which fine-tuning does not touch,
    come from the checkpoint that the experiment began with.

    Args:
        path: A states-*.ckpt; no code in it is run.
        parent: The checkpoint that the experiment began with; None for the place that the file names.

    Raises:
        ValueError: The file is no experiment of s3prl's with ``-f`` and this upstream, or the checkpoint that it began
            with is not there or is another one.
    """
    content = unpickle.load(path, ENTRIES)
    if content is None or not isinstance(content.get("Args"), dict) or "Downstream" not in content:
        raise ValueError(f"{path}: not a checkpoint of s3prl; expected entries Args and Downstream")
    if not isinstance(content.get("Upstream"), dict):
        raise ValueError(f"{path}: holds no encoder, since the experiment was trained without -f; take its -k")
    tuned = {
        name.removeprefix(PREFIX): value
        for name, value in content["Upstream"].items()
        if isinstance(name, str) and name.startswith(PREFIX)
    }
    base = _read_parent(path, content["Args"], parent)
    used = {name for name in base.state if not name.startswith(PRETRAINING_PARTS)}
    if tuned.keys() != used:
        raise ValueError(
            f"{path}: its encoder is not that of mae_ast, or began with another checkpoint: "
            f"{quote(min(tuned.keys() ^ used))} is in one of them only"
        )
    provenance = dataclasses.replace(base.config.provenance, parents=[*base.config.provenance.parents, str(path)])
    return validated(path, dataclasses.replace(base.config, provenance=provenance), {**base.state, **tuned})


def _read_parent(path: Path, args: dict[str, Any], parent: str | None) -> Loaded:
    source = parent
    if source is None:
        source = args.get("upstream") if args.get("hub") == "huggingface" else args.get("upstream_ckpt")
    if not isinstance(source, str | None):
        raise ValueError(f"{path}: names no checkpoint that it began with: give --parent CHECKPOINT")
    try:
        return checkpoint.read(checkpoint.resolve(source))
    except ValueError as error:
        raise ValueError(f"{path}: began with {quote(source)}, but {error}; give --parent CHECKPOINT") from error

"""Reads and writes checkpoint folders, which hold model.safetensors and config.json; writes published files."""

import json
import logging
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maeast_upstream.checkpoint import published
from maeast_upstream.checkpoint.card import keep_edited
from maeast_upstream.checkpoint.layout import (
    CARD_NAME,
    CONFIG_NAME,
    RUN_ENCODERS,
    WEIGHTS_NAME,
    check_header,
    check_shapes,
    read_folder_config,
)
from maeast_upstream.checkpoint.projection import Projection, read_projection
from maeast_upstream.checkpoint.states import disk_errors, write_whole
from maeast_upstream.config import EncoderConfig
from maeast_upstream.messages import shortened
from maeast_upstream.model import MaeAst
from maeast_upstream.storage.atomic import remove_leftovers, replacing_folder, restore_folder
from maeast_upstream.version import __version__

logger = logging.getLogger(__name__)
MAX_WEIGHT = 1e4
"""No weight of a trained network is near it, and from it a few layers reach the end of float32."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory."""

    config: EncoderConfig
    """The content of its config.json, or of the settings of a published file."""
    state: dict[str, Tensor]
    """The weights of the network, float32, on the CPU."""
    projection: Projection | None = None
    """What scene embeddings are whitened or projected by; only a folder may hold one."""


def package_version() -> str:
    """Return the version of this package, for what is written by it."""
    return __version__


def read_folder(folder: Path) -> Loaded:
    """Read a checkpoint folder.

    Raises:
        ValueError: A file is missing, broken, or does not fit the other one; the message names it.
    """
    config, path = read_folder_config(folder), folder / WEIGHTS_NAME
    projection = read_projection(folder, config)
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            check_shapes(config, {name: tuple(part.get_shape()) for name, part in stored.items()})
            state = {name: file.get_tensor(name) for name in stored}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file, or a broken one ({shortened(error)})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(validated(folder, config, state), projection=projection)


def save_folder(
    folder: Path,
    network: MaeAst,
    config: EncoderConfig,
    dtype: torch.dtype = torch.float32,
    card: str | None = None,
    projection: Projection | None = None,
) -> None:
    """Write a checkpoint folder; an earlier folder of that name is replaced once the new one is complete.

    A model card that somebody has edited stays as it is.

    Args:
        folder: The folder to make; parent folders are made, too.
        network: Holds the weights.
        config: Becomes config.json.
        dtype: The type of the stored weights; float16 halves the file.
        card: The text of its model card, see `maeast_upstream.checkpoint.card`; None for none.
        projection: Fitted for these weights. Without one the readout that is written has no dims and does not whiten.
    """
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    save_state(folder, state, config, dtype, card, projection)


def save_state(
    folder: Path,
    state: dict[str, Tensor],
    config: EncoderConfig,
    dtype: torch.dtype = torch.float32,
    card: str | None = None,
    projection: Projection | None = None,
) -> None:
    """Write weights that are not in a network, as `save_folder` does."""
    if projection is None:
        config = replace(config, readout=config.readout.full)
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with disk_errors(folder), replacing_folder(folder) as part:
        save_file({name: value.to(dtype).contiguous() for name, value in state.items()}, part / WEIGHTS_NAME)
        (part / CONFIG_NAME).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        shutil.copymode(part / CONFIG_NAME, part / WEIGHTS_NAME)  # safetensors writes 0600 whatever the umask
        if projection is not None:
            projection.save(part)
        if keep_edited(folder, part):
            if card is not None:
                logger.warning("%s: edited, so it stays as it is; remove it for a new one", folder / CARD_NAME)
        elif card is not None:
            (part / CARD_NAME).write_text(card, encoding="utf-8")


def repair(run: Path) -> None:
    """Finish the replacement of a run's encoders that a kill interrupted, see `restore_folder`."""
    for name in RUN_ENCODERS:
        restore_folder(run / name)


def save_published(path: Path, loaded: Loaded) -> None:
    """Write a file of the published format, which s3prl's own upstream reads."""
    write_whole(path, published.to_published(loaded.config, loaded.state))


def validated(path: Path, config: EncoderConfig, state: dict[str, Tensor]) -> Loaded:
    """Return the checkpoint with float32 weights, or raise ValueError.

    The state must hold exactly the tensors of the network, each of the right shape, with finite values of usual size.
    """
    try:
        check_shapes(config, {name: tuple(value.shape) for name, value in state.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, value in state.items():
        if not value.is_floating_point():
            raise ValueError(f"{path}: {name} holds {value.dtype}; expected floating point numbers")
    weights = {name: value.float() for name, value in state.items()}
    for name, value in weights.items():
        low, high = (bound.item() for bound in torch.aminmax(value))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{path}: {name} holds NaN or infinite values")
        if max(-low, high) > MAX_WEIGHT:
            raise ValueError(f"{path}: {name} holds values from {low:g} to {high:g}, which no trained network has")
    return Loaded(config, weights)

"""Reads and writes checkpoint folders, which hold model.safetensors and config.json; writes published files."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from maeast_upstream.checkpoint import published
from maeast_upstream.checkpoint.archive import refuse_sparse
from maeast_upstream.checkpoint.states import disk_errors, write_whole
from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig, FrontendConfig, Normalisation
from maeast_upstream.messages import shortened
from maeast_upstream.model import MaeAst, ModelConfig
from maeast_upstream.storage.atomic import remove_leftovers, replacing_folder, restore_folder
from maeast_upstream.storage.json_file import read_json
from maeast_upstream.version import __version__

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"
RUN_ENCODERS = ("ema", "best", "last")
"""Checkpoint folders inside a pretraining run, the preferred one first."""
NECESSARY = {"model": ModelConfig, "frontend": FrontendConfig, "normalisation": Normalisation}
"""Sections of config.json that decide what the weights compute."""
LATER_SETTINGS = {"decoder_attention"}
"""Their settings that version 0.1 did not write."""
MAX_HEADER_BYTES = 4 << 20
"""A header of safetensors has about 100 bytes for each tensor, and a network has some hundred tensors."""
MAX_WEIGHT = 1e4
"""No weight of a trained network is near it, and from it a few layers reach the end of float32."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory."""

    config: EncoderConfig
    """The content of its config.json, or of the settings of a published file."""
    state: dict[str, Tensor]
    """The weights of the network, float32, on the CPU."""


def package_version() -> str:
    """Return the version of this package, for what is written by it."""
    return __version__


def read_folder(folder: Path) -> Loaded:
    """Read a checkpoint folder.

    Raises:
        ValueError: A file is missing, broken, or does not fit the other one; the message names it.
    """
    config, path = read_folder_config(folder), folder / WEIGHTS_NAME
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            check_shapes(config, {name: torch.Size(part.get_shape()) for name, part in stored.items()})
            state = {name: file.get_tensor(name) for name in stored}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file, or a broken one ({shortened(error)})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return validated(folder, config, state)


def check_header(path: Path) -> None:
    """Raise ValueError for a file whose header is larger than any, before something parses it."""
    refuse_sparse(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"not a safetensors file, or a broken one (its header has {size} bytes)")


def read_folder_config(folder: Path) -> EncoderConfig:
    """Read config.json of a checkpoint folder.

    Raises:
        ValueError: The folder has no config.json or no weights, or config.json is broken or lacks a setting.
    """
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: not a checkpoint folder: no {name} in it")
    try:
        content = read_json(folder / CONFIG_NAME)
        _refuse_missing(content)
        return EncoderConfig.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_NAME}: {error}") from error


def _refuse_missing(content: Any) -> None:
    """Raise ValueError where a setting is missing whose default may not be what was trained."""
    for section, kind in NECESSARY.items() if isinstance(content, dict) else ():
        found = content.get(section, {})
        names = [field.name for field in fields(kind) if field.name not in LATER_SETTINGS]
        missing = [name for name in names if isinstance(found, dict) and name not in found]
        if missing:
            raise ValueError(f"config.{section}.{missing[0]} is missing; a default may not be what was trained")


def save_folder(folder: Path, network: MaeAst, config: EncoderConfig, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint folder; an earlier folder of that name is replaced once the new one is complete.

    Args:
        folder: The folder to make; parent folders are made, too.
        network: Holds the weights.
        config: Becomes config.json.
        dtype: The type of the stored weights; float16 halves the file.
    """
    save_state(folder, {name: value.detach().cpu() for name, value in network.state_dict().items()}, config, dtype)


def save_state(
    folder: Path, state: dict[str, Tensor], config: EncoderConfig, dtype: torch.dtype = torch.float32
) -> None:
    """Write weights that are not in a network, as `save_folder` does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with disk_errors(folder), replacing_folder(folder) as part:
        save_file({name: value.to(dtype).contiguous() for name, value in state.items()}, part / WEIGHTS_NAME)
        (part / CONFIG_NAME).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        shutil.copymode(part / CONFIG_NAME, part / WEIGHTS_NAME)  # safetensors writes 0600 whatever the umask


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
        check_shapes(config, {name: value.shape for name, value in state.items()})
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


def check_shapes(config: EncoderConfig, shapes: Mapping[str, torch.Size]) -> None:
    """Raise ValueError unless these are the tensors of the network, each of the right shape."""
    if config.model.depth + config.model.decoder_depth > len(shapes):
        raise ValueError(f"its config has {config.model.depth} layers, but there are only {len(shapes)} tensors")
    expected = _shapes(config.model)
    for name, shape in expected.items():
        if name not in shapes:
            raise ValueError(f"tensor {name!r} is missing")
        if shapes[name] != shape:
            raise ValueError(f"{name} has shape {tuple(shapes[name])}; its config expects {tuple(shape)}")
    unexpected = sorted(set(shapes) - set(expected))
    if unexpected:
        raise ValueError(f"unexpected tensor {quote(unexpected[0])} (and {len(unexpected) - 1} more)")


def _shapes(model: ModelConfig) -> dict[str, torch.Size]:
    try:
        with torch.device("meta"):
            return {name: value.shape for name, value in MaeAst(model).state_dict().items()}
    except (RuntimeError, TypeError) as error:  # torch raises these where a number is too large
        raise ValueError(f"no network of the size in its config can be made ({shortened(error)})") from error

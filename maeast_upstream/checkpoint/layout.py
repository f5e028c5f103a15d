"""What a checkpoint folder holds: the names of its files, its config, and its tensors with their shapes; no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from maeast_upstream.checkpoint.archive import refuse_sparse
from maeast_upstream.checks import quote
from maeast_upstream.config import EncoderConfig, FrontendConfig, ModelConfig, Normalisation
from maeast_upstream.storage.json_file import read_json

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"
CARD_NAME = "README.md"
"""The model card, as the hub names it."""
CARD_NAMES = (CARD_NAME, "MODEL_CARD.md")
"""Where a card may stand; the second in the package, whose folder is no repository."""
PRETRAINING_ONLY = ("decoder", "reconstruction_head", "classification_head")
"""How the names of tensors begin that the encoder does not use."""
RUN_ENCODERS = ("ema", "best", "last")
"""Checkpoint folders inside a pretraining run, the preferred one first."""
TUNED_ENCODER = "encoder"
"""Checkpoint folder inside the folder that a fine-tuning leaves for each set."""
NECESSARY = {"model": ModelConfig, "frontend": FrontendConfig, "normalisation": Normalisation}
"""Sections of config.json that decide what the weights compute."""
LATER_SETTINGS = {"decoder_attention"}
"""Their settings that version 0.1 did not write."""
MAX_HEADER_BYTES = 4 << 20
"""A header of safetensors has about 100 bytes for each tensor, and a network has some hundred tensors."""


def encoder_folder(path: Path) -> Path:
    """The checkpoint folder in that of a pretraining run or a fine-tuning; any other folder itself.

    Raises:
        ValueError: A fine-tuning on several sets left several encoders in it.
    """
    inside = [path / name for name in (*RUN_ENCODERS, TUNED_ENCODER) if (path / name / CONFIG_NAME).exists()]
    if inside or (path / CONFIG_NAME).exists():
        return inside[0] if inside else path
    tuned = sorted(file.parent for file in path.glob(f"*/{TUNED_ENCODER}/{CONFIG_NAME}"))
    if len(tuned) > 1:
        raise ValueError(f"{path}: holds {len(tuned)} fine-tuned encoders: give one, such as {tuned[0]}")
    return tuned[0] if tuned else path


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


def check_header(path: Path) -> None:
    """Raise ValueError for a file whose header is larger than any, before something parses it."""
    refuse_sparse(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"not a safetensors file, or a broken one (its header has {size} bytes)")


def check_shapes(config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless these are the tensors of the network, each of the right shape."""
    if config.model.depth + config.model.decoder_depth > len(shapes):
        raise ValueError(f"its config has {config.model.depth} layers, but there are only {len(shapes)} tensors")
    expected = tensor_shapes(config.model)
    for name, shape in expected.items():
        if name not in shapes:
            raise ValueError(f"tensor {name!r} is missing")
        if shapes[name] != shape:
            raise ValueError(f"{name} has shape {shapes[name]}; its config expects {shape}")
    unexpected = sorted(set(shapes) - set(expected))
    if unexpected:
        raise ValueError(f"unexpected tensor {quote(unexpected[0])} (and {len(unexpected) - 1} more)")


def tensor_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the network; building it to look would load a compiler of torch."""
    dim, decoder_dim, patch = model.embed_dim, model.decoder_dim, model.patch_dim
    found = dict(_linear("patch_embed", patch, dim)) | {"encoder_mask": (dim,)}
    found |= _stack("encoder", dim, model.ffn_dim, model.depth, {"qkv": 3})
    if decoder_dim != dim:
        found |= _linear("decoder_embed", dim, decoder_dim)
    found["decoder_mask"] = (decoder_dim,)
    projections = {"q": 1, "kv": 2} if model.decoder_attention == "cross" else {"qkv": 3}
    found |= _stack("decoder", decoder_dim, model.decoder_ffn_dim, model.decoder_depth, projections)
    for head in ("reconstruction_head", "classification_head"):
        found |= _linear(head, decoder_dim, patch)
    return found


def _stack(name: str, dim: int, ffn_dim: int, depth: int, projections: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a `TransformerStack`; ``projections`` of its attention are so many times as wide as it."""
    found = dict(_norm(f"{name}.norm", dim))
    for block in (f"{name}.blocks.{number}" for number in range(depth)):
        for projection, parts in {**projections, "out": 1}.items():
            found |= _linear(f"{block}.attention.{projection}", dim, parts * dim)
        found |= dict(_norm(f"{block}.attention_norm", dim)) | dict(_norm(f"{block}.ffn_norm", dim))
        found |= dict(_linear(f"{block}.fc1", dim, ffn_dim)) | dict(_linear(f"{block}.fc2", ffn_dim, dim))
    return found


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (dim,)
    yield f"{name}.bias", (dim,)


def encoder_size(sizes: Mapping[str, int]) -> int:
    """The number of weights without those that only pretraining needs, from the number in each tensor."""
    return sum(size for name, size in sizes.items() if not name.startswith(PRETRAINING_ONLY))

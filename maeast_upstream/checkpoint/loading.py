"""Finds a checkpoint by name, path or hub id and reads it."""

import re
from pathlib import Path

from maeast_upstream.checkpoint import download, published, unpickle
from maeast_upstream.checkpoint.folder import CONFIG_NAME, RUN_PARTS, WEIGHTS_NAME, Loaded, _checked, read_folder

BUNDLED = Path(__file__).parents[1] / "assets" / "tiny"


def resolve(source: str | Path | None) -> Path:
    """Where a checkpoint lies.

    Args:
        source: None for the one in the package; a published name (downloaded once); a path; a hub id "org/name".

    Raises:
        ValueError: nothing of that name.
    """
    if source is None:
        return BUNDLED
    path = Path(source).expanduser()
    if path.exists():
        return path
    if str(source) in download.FILES:
        return download.fetch(str(source), check=read_published)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in (
        ".pt",
        ".pth",
        ".safetensors",
        ".ckpt",
    ):
        return _from_hub(str(source))
    raise ValueError(
        f"no checkpoint {str(source)!r}: expected a file or folder that exists, a hub id (org/name), "
        f"or one of {', '.join(download.FILES)}"
    )


def read(path: Path) -> Loaded:
    """Read a checkpoint of any format.

    Args:
        path: our folder, a pretraining run, or a published .pt file.

    Raises:
        ValueError: not a checkpoint of this model, broken, or refused because it asks to run something.
    """
    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: give the folder that holds it and its {CONFIG_NAME}")
    if path.is_file():
        return read_published(path)
    for part in RUN_PARTS:
        if (path / part / CONFIG_NAME).exists():
            return read_folder(path / part)
    return read_folder(path)


def read_published(path: Path) -> Loaded:
    """A published file, or one straight from fairseq."""
    content = unpickle.load(path, published.ENTRIES)
    try:
        config, state = published.from_published(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _checked(path, config, state)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS_NAME, CONFIG_NAME]))
    except Exception as error:  # whatever the hub's client raises: the remedy is the same
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"no file or folder {name!r}, and it could not be had from the hub ({reason}); offline, put its "
            f"{WEIGHTS_NAME} and {CONFIG_NAME} into a folder and give that folder"
        ) from error

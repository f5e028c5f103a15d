"""Weights on disk: our folder, the published .pt files, and the way from one to the other."""
import json, os, shutil, tempfile
from importlib import metadata
from pathlib import Path

from maeast_upstream.config import EncoderConfig
from maeast_upstream.model import MaeAst

WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"

def package_version() -> str:
    return "0.1.0"

def save_folder(folder: Path, network: MaeAst, config: EncoderConfig) -> None:
    from safetensors.torch import save_file
    tmp = folder.with_name(folder.name + ".part"); shutil.rmtree(tmp, ignore_errors=True); tmp.mkdir(parents=True)
    save_file({k: v.contiguous().cpu() for k, v in network.state_dict().items()}, tmp / WEIGHTS_NAME)
    (tmp / CONFIG_NAME).write_text(json.dumps(config.to_dict(), indent=2))
    shutil.rmtree(folder, ignore_errors=True); os.replace(tmp, folder)

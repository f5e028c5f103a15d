"""``maeast install-s3prl``: ``mae_ast`` in a checkout of s3prl, so that its own run_downstream.py has it."""

import shutil
from pathlib import Path

from maeast_upstream.storage.atomic import replacing

FOLDER = "maeast_upstream"
"""Beside s3prl's own upstream/mae_ast."""


LINE = f"from s3prl.upstream.{FOLDER}.hubconf import *\n"
"""Stands first in s3prl/hub.py: what the lines below it import needs the repairs."""


HUBCONF = '''"""Repairs s3prl for today's PyTorch, defines mae_ast. ``maeast install-s3prl --remove`` takes it away."""

from maeast_upstream.expert import UpstreamExpert as _UpstreamExpert
from maeast_upstream.integrations.s3prl.repairs import install_repairs as _install_repairs

__all__ = ["mae_ast"]

_install_repairs()


def mae_ast(ckpt=None, model_config=None, refresh=False, **options):
    """
    MAE-AST: the checkpoint in the package maeast_upstream, or another
        ckpt (str): what maeast_upstream.load_model takes
    """
    return _UpstreamExpert(ckpt, model_config, refresh, **options)
'''


def find_package(checkout: Path) -> Path:
    """The folder that holds hub.py and upstream/; ValueError if there is none."""
    for folder in (checkout / "s3prl", checkout):
        if (folder / "hub.py").is_file() and (folder / "upstream" / "mae_ast").is_dir():
            return folder
    raise ValueError(f"{checkout}: not a checkout of s3prl: expected s3prl/hub.py and s3prl/upstream/mae_ast in it")


def install(package: Path) -> None:
    """The folder, then the line; a second time changes nothing."""
    folder = package / "upstream" / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "hubconf.py").write_text(HUBCONF, encoding="utf-8")
    hub = (package / "hub.py").read_bytes()
    if not hub.startswith(LINE.encode()):
        rewrite(package / "hub.py", LINE.encode() + hub)


def remove(package: Path) -> None:
    """The line, then the folder."""
    hub = (package / "hub.py").read_bytes()
    folder = package / "upstream" / FOLDER
    if LINE.encode() not in hub and not folder.exists():
        raise ValueError(f"{package}: mae_ast is not in it")
    rewrite(package / "hub.py", hub.replace(LINE.encode(), b"", 1))
    shutil.rmtree(folder, ignore_errors=True)


def rewrite(path: Path, content: bytes) -> None:
    """Whole or not at all, with the rights that it had."""
    with replacing(path) as part:
        part.write_bytes(content)
        shutil.copymode(path, part)

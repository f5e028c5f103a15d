"""Adds ``mae_ast`` to a checkout of s3prl, so that its own run_downstream.py knows the upstream; or removes it."""

import importlib.util
import shutil
from pathlib import Path

from maeast_upstream.storage.atomic import replacing

FOLDER = "maeast_upstream"
"""Name of the folder that is made beside s3prl's own upstream/mae_ast."""

LINE = f"from s3prl.upstream.{FOLDER}.hubconf import *\n"
"""Becomes the first line of s3prl/hub.py, since what the other lines import needs the repairs."""

HUBCONF = '''"""Repairs s3prl for today's PyTorch and defines mae_ast. ``maeast install-s3prl --remove`` removes it."""

from maeast_upstream.expert import UpstreamExpert as _UpstreamExpert
from maeast_upstream.integrations.s3prl.repairs import install_repairs as _install_repairs

__all__ = ["mae_ast"]

_install_repairs()


def mae_ast(ckpt=None, model_config=None, refresh=False, **options):
    """
    MAE-AST, by default the checkpoint in the package maeast_upstream
        ckpt (str): another checkpoint, as for maeast_upstream.load_model
    """
    return _UpstreamExpert(ckpt, model_config, refresh, **options)
'''


def find_package(checkout: Path) -> Path:
    """The folder of a checkout that holds hub.py and upstream/; ValueError if there is none."""
    for folder in (checkout / "s3prl", checkout):
        if (folder / "hub.py").is_file() and (folder / "upstream" / "mae_ast").is_dir():
            return folder
    raise ValueError(
        f"{checkout}: not a checkout of s3prl: expected it to hold s3prl/hub.py and s3prl/upstream/mae_ast"
    )


def imported_instead(package: Path) -> str | None:
    """Return what ``import s3prl`` finds where that is not ``package``: another folder, or nothing."""
    spec = importlib.util.find_spec("s3prl")
    if spec is None or spec.origin is None:
        return "not possible"
    folder = Path(spec.origin).parent.resolve()
    return None if folder == package.resolve() else str(folder)


def install(package: Path) -> None:
    """Write the folder, then the line; a second call changes nothing."""
    folder = package / "upstream" / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "hubconf.py").write_text(HUBCONF, encoding="utf-8")
    hub = (package / "hub.py").read_bytes()
    if not hub.startswith(LINE.encode()):
        rewrite(package / "hub.py", LINE.encode() + hub)


def remove(package: Path) -> None:
    """Remove the line, then the folder."""
    hub = (package / "hub.py").read_bytes()
    folder = package / "upstream" / FOLDER
    if LINE.encode() not in hub and not folder.exists():
        raise ValueError(f"{package}: mae_ast is not installed in it")
    rewrite(package / "hub.py", hub.replace(LINE.encode(), b"", 1))
    shutil.rmtree(folder, ignore_errors=True)


def rewrite(path: Path, content: bytes) -> None:
    """Replace a file's content, whole or not at all; its permissions stay."""
    with replacing(path) as part:
        part.write_bytes(content)
        shutil.copymode(path, part)

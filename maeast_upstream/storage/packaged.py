"""Finds the files that come with the package."""

import importlib.util
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def configs_folder() -> Path:
    """Return the folder of the configs: in the installed package, or beside the package in a checkout.

    Raises:
        ValueError: There is none: the package was copied without it.
    """
    spec = importlib.util.find_spec("maeast_upstream.configs")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in (*map(Path, places), CHECKOUT / "configs"):
        if (folder / "superb").is_dir():
            return folder
    raise ValueError(f"the configs of the package are missing: neither installed nor in {CHECKOUT / 'configs'}")

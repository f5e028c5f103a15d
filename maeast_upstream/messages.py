"""Wording that messages share: counts, long texts, and how to install what is missing."""

import json
import shlex
import urllib.parse
from pathlib import Path
from typing import Any

DISTRIBUTION = "maeast-upstream"
MAX_MESSAGE = 2000
"""Characters of an error on the terminal; values from a file may be much longer."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 file``, ``2000 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(value: object, limit: int = 200) -> str:
    """Return a text in one line of at most ``limit`` characters, cut between words where it is longer."""
    text = str(value)
    words = " ".join(text[: 4 * limit].split())  # a hostile text may be very long
    if len(words) <= limit and len(text) <= 4 * limit:
        return words
    kept, space, _ = words[: limit - 3].rpartition(" ")
    return (kept if space and len(kept) > limit // 2 else words[: limit - 4]) + " ..."


def install_extra(extra: str) -> str:
    """Return the command that installs an extra of this package, as it can be typed.

    It names the checkout, archive or repository that this package was installed from, and the published name if it
    came from an index.
    """
    root = Path(__file__).parents[1]
    origin = _origin()
    if not (root / "setup.cfg").is_file():  # installed, not a checkout
        url = str(origin.get("url", ""))
        root = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) if url.startswith("file:") else Path()
        if "vcs_info" in origin:
            return "pip install " + shlex.quote(f"{DISTRIBUTION}[{extra}] @ git+{url}")
        if not root.is_absolute() or not root.exists():
            return f"pip install '{DISTRIBUTION}[{extra}]'"
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    place = "." if root == Path.cwd() else str(root)
    return f"pip install {editable}{shlex.quote(f'{place}[{extra}]')}"


def _origin() -> dict[str, Any]:
    """Where this package was installed from, by PEP 610; empty for an index."""
    import importlib.metadata  # the help of a command needs none, and it takes a fifth of its time

    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        return dict(json.loads(text or "{}"))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}

"""Names of npy files, and of other files that belong to a clip or a recording each.

No two clips have the same one, and a name depends on nothing but its clip.

A relative path is its own name, ``sub/clip.wav.npy``; an absolute one stands in the folder ``_``, and ``..`` becomes
``__``. Where this loses something that another path may differ in, a digest of the clip follows: ``clip.wav~3f5a...``.
"""

import hashlib
import re
import unicodedata

from maeast_upstream.extract.table import Embedded
from maeast_upstream.storage.remote import is_remote

MAX_NAME_BYTES = 150
"""Longest name of a file or folder; file systems allow 255 bytes, and row and times follow."""
MAX_PATH_BYTES = 2000
"""Longest name with its folders; Linux allows 4096 bytes with those of the output."""
RESERVED = ("index.parquet",)
"""Names in the output folder that are no clips'; those of its other files begin with an underscore."""
MARKED = re.compile(r"~[0-9a-f]{16}$")
ENDS_AS_SEGMENT = re.compile(r"\.\d+(\.[\d.e+-]+)?$")


def npy_name(clip: Embedded, any_case: bool = False) -> str:
    """Return the name of a clip's file in the output folder.

    The row 7 of a manifest, counted from 0, becomes ``clip.wav.7.npy``; a segment of a file, with its times in ms,
    ``clip.wav.7.1500-2750.npy``, because the rows 7 of two manifests may be two segments of one file.

    Args:
        clip: The clip.
        any_case: Whether the file system takes names that differ only in case or in the form of an accent for one.
    """
    times = f".{_number(clip.start_ms)}-{_number(clip.end_ms)}" if clip.is_segment else ""
    row = f".{clip.segment}" if clip.segment or times else ""
    return f"{name_of(clip.path, '.npy', any_case)}{row}{times}.npy"


def name_of(path: str, suffix: str, any_case: bool = False) -> str:
    """Return the name of a recording's file in the output folder, without its suffix.

    Args:
        path: The recording, as tables store it.
        suffix: How the names of all these files end.
        any_case: As in `npy_name`.
    """
    scheme, _, rest = path.partition("://") if is_remote(path) else ("", "", path)
    names = rest.split("/")
    is_absolute = not scheme and names[0] == ""
    shown = [_shown(name, suffix, is_last=number == len(names) - 1) for number, name in enumerate(names)]
    if scheme:
        shown.insert(0, f"_{scheme}")
    elif is_absolute:
        shown[0] = "_"
    elif names[0].startswith("_"):
        shown[0] = f"_{shown[0]}"
    kept = [name for name in shown if name] or ["_"]
    is_long = sum(len(name.encode()) + 1 for name in kept) > MAX_PATH_BYTES
    is_exact = len(kept) == len(shown) and not is_long
    is_exact &= all(_is_exact(name, suffix) for name in names[is_absolute:])
    is_exact &= not (names[0].lower() in RESERVED or ENDS_AS_SEGMENT.search(names[-1]) or MARKED.search(names[-1]))
    if any_case:
        is_exact &= path == unicodedata.normalize("NFC", path).casefold()
    if is_long:
        kept = ["_long", kept[-1]]
    mark = "" if is_exact else "~" + hashlib.sha256(path.encode()).hexdigest()[:16]
    return "/".join(kept) + mark


def _shown(name: str, suffix: str, is_last: bool) -> str:
    """Return a name as it can stand in a folder of such files."""
    if name == "..":
        return "__"
    if name == ".":
        return ""
    short = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    if not is_last and (_is_like_file(name, suffix) or name.lower() in RESERVED):
        return f"{short}~"
    return short


def _is_exact(name: str, suffix: str) -> bool:
    """Whether `_shown` gives this name to no other one."""
    is_plain = len(name.encode()) <= MAX_NAME_BYTES and not _is_like_file(name, suffix) and not name.endswith("~")
    return name == ".." or (is_plain and bool(name.strip("_")))


def _is_like_file(name: str, suffix: str) -> bool:
    """Whether a folder may not have this name: one that a clip's file can have, or that some systems shorten."""
    return name.lower().endswith(suffix) or name[-1:] in (".", " ")


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")

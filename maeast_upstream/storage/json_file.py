"""Reads JSON files that others wrote: of bounded size and depth, each key once, no NaN."""

import json
from pathlib import Path
from typing import Any, NoReturn

from maeast_upstream.checks import quote
from maeast_upstream.storage.text import encoding_of, refuse_endless

MAX_BYTES = 4 << 20
"""No JSON file of this project is near that size."""


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is a pipe or device, is larger than ``max_bytes``, is not UTF-8 or not JSON, has a key twice,
            holds NaN or an infinite number, or is nested too deeply. The message does not name the file.
        OSError: It cannot be opened.
    """
    refuse_endless(path)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"larger than {max_bytes >> 20} MB, which no such file is")
    return parse_json(content)


def parse_json(content: bytes) -> Any:
    """Parse JSON; ValueError as in `read_json`."""
    try:
        text = content.decode(encoding_of(content[:4]))
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise ValueError("not JSON of this project: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {quote(name)} occurs twice")
        found[name] = value
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")

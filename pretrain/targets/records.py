"""What a run's folder says of the targets that it was begun with."""

from pathlib import Path
from typing import Any

from maeast_upstream.storage.json_file import read_json

MAX_RECORD_BYTES = 64 << 20


def read_record(path: Path) -> Any:
    """Read a record; None in a run that has none yet.

    Raises:
        ValueError: It is broken or too large; in one line.
    """
    if not path.exists():
        return None
    try:
        return read_json(path, MAX_RECORD_BYTES)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; give another --out") from error

"""Writes the audio of hits as WAV files."""

import re
from collections.abc import Sequence
from pathlib import Path

from maeast_upstream.audio.reading import AudioError
from maeast_upstream.audio.writing import write_wav
from maeast_upstream.progress import progress_bar
from maeast_upstream.similarity.hits import Hit, by_query, read_sound
from maeast_upstream.storage.atomic import replacing

MAX_STEM = 80
"""Characters of a file's name that are part of the names of its hits."""


def cut_names(hits: Sequence[Hit]) -> list[str]:
    """Return the name of each hit's file: its rank, similarity and stem, after the number of its query if several.

    They hold letters, digits, ``.``, ``-`` and ``_`` only, so that none can lie outside the folder or hide in it.
    """
    queries = {query: number for number, query in enumerate(by_query(hits), start=1)}
    digits = len(str(max((hit.rank for hit in hits), default=1)))
    names = []
    for hit in hits:
        query = f"query{queries[hit.query]}-" if len(queries) > 1 else ""
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(hit.path).stem)[:MAX_STEM]
        names.append(f"{query}{hit.rank:0{digits}d}-{hit.similarity:.3f}-{stem}.wav")
    return names


def check_folder(folder: Path) -> None:
    """Raise ValueError unless a folder can be made or filled; call it before long work."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file; expected the name of a folder for the WAV files")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"{folder.parent}: no such folder to make {folder.name} in")


def cut(hits: Sequence[Hit], folder: Path, force: bool = False, root: str = "") -> list[tuple[Hit, str]]:
    """Write the audio of each hit to a folder, which is made, as 16-bit WAV at 16 kHz.

    Args:
        hits: The results of `search`.
        folder: Where the files go; its other files stay.
        force: Replace files that have the same names.
        root: The folder that relative paths of hits start at; "" for the current one.

    Returns:
        The hits whose audio could not be read, and the reasons.

    Raises:
        ValueError: A file of such a name exists and ``force`` is not given; nothing is written.
    """
    check_folder(folder)
    names = cut_names(hits)
    existing = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if existing and not force:
        raise ValueError(f"{folder / existing[0]} exists already; give --force to replace it, or another folder")
    folder.mkdir(exist_ok=True)
    failed = []
    for hit, name in zip(progress_bar(hits, unit="hit"), names, strict=True):
        try:
            samples = read_sound(hit.path, hit.start_ms, hit.end_ms, root=root)
        except AudioError as error:
            failed.append((hit, str(error)))
            continue
        with replacing(folder / name) as part:
            write_wav(part, samples)
    return failed

"""Vectors of labelled clips: embedded, or taken from a table of embeddings."""

import dataclasses
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from maeast_upstream.classification.folder import CheckpointSource
from maeast_upstream.classification.labelled_clips import LabelledClip
from maeast_upstream.data.embeddings import EmbeddingTable
from maeast_upstream.data.inputs import Segment, segment_of
from maeast_upstream.data.windows import Windows
from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.display import as_name, as_text, from_name
from maeast_upstream.encoder import Encoder
from maeast_upstream.extract.pipeline import embed_decoded
from maeast_upstream.extract.table import Embedded, EmbeddingSpec
from maeast_upstream.extract.whole_clips import only_whole
from maeast_upstream.fingerprint import fingerprint
from maeast_upstream.progress import progress_bar
from maeast_upstream.readout import Readout
from maeast_upstream.storage.remote import is_remote

logger = logging.getLogger(__name__)

SAME_MS = 1.0
"""Times of a table of labels and a table of embeddings that differ by less are equal."""


@dataclass(frozen=True)
class Examples:
    """Labelled vectors, and the clips that have none."""

    vectors: np.ndarray
    """(n, E) float32."""
    clips: list[LabelledClip]
    """(n,) the clip of each vector; the windows of a clip follow one another."""
    left_out: list[tuple[LabelledClip, str]]
    """Clips that could not be read, or are not in the table, with the reason."""
    source: CheckpointSource
    """The encoder that computed the vectors."""
    readout: Readout
    windows: Windows | None


def embed_clips(
    clips: Sequence[LabelledClip],
    encoder: Encoder,
    checkpoint: str,
    readout: Readout,
    windows: Windows | None = None,
    workers: int = 1,
) -> Examples:
    """Embed labelled clips, each whole or cut into windows, which all have its labels.

    Args:
        clips: Files of this machine, members of tars, or addresses.
        encoder: In eval mode.
        checkpoint: Its name, path or hub id.
        readout: How a clip's features become a vector.
        windows: How to cut clips; None for one vector per clip.
        workers: Processes that decode; 0 for a thread.

    Raises:
        ValueError: The encoder does not have the readout, or no clip can be read.
    """
    spec = EmbeddingSpec(readouts=(readout,), windows=windows)
    spec.width(encoder.config)
    encoder.check_readout(readout)
    vectors: list[np.ndarray] = []
    owners: list[int] = []
    failed: dict[int, str] = {}
    with (
        DecodePool(workers) as pool,
        progress_bar(total=len(clips), unit="clip", desc="embed", leave=False) as bar,
    ):
        for outcome in only_whole(embed_decoded(pool.stream(map(_segment, range(len(clips)), clips)), encoder, spec)):
            for note in outcome.notes:
                logger.warning("%s: %s", outcome.path, note)
            if isinstance(outcome, Embedded):
                vectors.append(outcome.vectors[0, 0])
                owners.append(outcome.segment)
            else:
                failed.setdefault(outcome.segment, outcome.reason)
            bar.update(outcome.segment + 1 - bar.n)
    left_out = [(clips[number], reason) for number, reason in sorted(failed.items())]
    if not vectors:
        raise ValueError(f"none of the {len(clips)} clips could be read; first error: {left_out[0][1]}")
    source = CheckpointSource(checkpoint, fingerprint(encoder, readout))
    return Examples(np.stack(vectors), [clips[number] for number in owners], left_out, source, readout, windows)


def _segment(number: int, clip: LabelledClip) -> Segment:
    segment = segment_of(as_name(clip.path))
    return dataclasses.replace(segment, number=number, start_ms=clip.start_ms, end_ms=clip.end_ms)


def look_up_clips(clips: Sequence[LabelledClip], table: EmbeddingTable, labels_folder: Path) -> Examples:
    """Find the vectors of labelled clips in a table of embeddings; a clip without times gets all rows of its file.

    Paths of the table are absolute, or relative to the folder that the table names; where it names none, to the working
    folder or the table's own. If none of the clips is found so, they are relative to the folder of the labels.

    Args:
        clips: The clips.
        table: What ``maeast embed`` wrote. It is read in blocks, and only the rows of the clips are kept.
        labels_folder: The folder of the table of labels.

    Raises:
        ValueError: The table does not tell its checkpoint, is broken, or has none of the clips; or a relative path in
            it may be that of two labelled files.
    """
    if table.origin is None or table.readout is None:
        raise ValueError(f"{table.path}: does not tell the checkpoint of its vectors; expected what maeast embed wrote")
    folders = [Path(table.root).resolve()] if table.root else [Path.cwd(), table.path.resolve().parent]
    # labels that the map saved have the table's names, wherever they were saved to
    rows = _rows_of(clips, table, folders) or _rows_of(clips, table, [labels_folder.resolve()])
    found = {number for number, _, _ in rows}
    left_out = [
        (clip, f"not in {as_text(str(table.path))}") for number, clip in enumerate(clips) if number not in found
    ]
    if not rows:
        raise ValueError(
            f"{table.path}: has none of the {len(clips)} labelled clips, such as {as_text(clips[0].path)}; relative "
            "paths in it start at the folder in which it was made"
        )
    source = CheckpointSource(table.origin.checkpoint, table.origin.fingerprint)
    vectors, owners = np.stack([vector for _, _, vector in rows]), [clips[number] for number, _, _ in rows]
    return Examples(vectors, owners, left_out, source, table.readout, table.origin.windows)


def _rows_of(
    clips: Sequence[LabelledClip], table: EmbeddingTable, folders: Sequence[Path]
) -> list[tuple[int, float, np.ndarray]]:
    """Return the number of the clip, the start and the vector of each row of a clip, by clip and time.

    Args:
        clips: The clips.
        table: The table.
        folders: What its paths may be relative to.
    """
    by_name: dict[str, dict[int | None, list[int]]] = {}
    for number, clip in enumerate(clips):
        local = [] if is_remote(clip.path) else folders
        second = None if clip.start_ms is None and clip.end_ms is None else int((clip.start_ms or 0.0) // 1000)
        for name in {clip.path, *(os.path.relpath(clip.path, folder) for folder in local)}:
            by_name.setdefault(name, {}).setdefault(second, []).append(number)
    rows: list[tuple[int, float, np.ndarray]] = []
    for block in table.blocks():
        times = zip(block.start_ms.tolist(), block.end_ms.tolist(), strict=True)
        for row, (path, (start, end)) in enumerate(zip(block.paths, times, strict=True)):
            by_second = by_name.get(from_name(path)) or by_name.get(_real(from_name(path))) or {}
            seconds = {None, int((start - SAME_MS) // 1000), int((start + SAME_MS) // 1000)} if by_second else ()
            numbers = list(itertools.chain.from_iterable(by_second.get(second, ()) for second in seconds))
            _refuse_ambiguous(path, {clips[number].path for number in numbers}, table)
            for number in numbers:
                if _has_times(clips[number], start, end):
                    rows.append((number, start, block.vectors[row].copy()))
    return sorted(rows, key=lambda item: item[:2])


def _refuse_ambiguous(path: str, files: set[str], table: EmbeddingTable) -> None:
    """Raise ValueError if the path in a table may be that of several labelled files."""
    if len(files) > 1:
        first, second = map(as_text, sorted(files)[:2])
        raise ValueError(
            f"{table.path}: {as_text(path)} may be {first} or {second}; move the table to the folder in which it was "
            "made and run this there, or make it with --relative-to"
        )


def _real(path: str) -> str:
    """Return a path with its folder's links followed; an address as it is."""
    if is_remote(path):
        return path
    folder, name = os.path.split(path)
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _has_times(clip: LabelledClip, start_ms: float, end_ms: float) -> bool:
    """Whether a row of a table is a labelled clip, or a window of a file that is labelled as a whole."""
    if clip.start_ms is None and clip.end_ms is None:
        return True
    starts = abs((clip.start_ms or 0.0) - start_ms) < SAME_MS
    return starts and (clip.end_ms is None or not abs(clip.end_ms - end_ms) >= SAME_MS)

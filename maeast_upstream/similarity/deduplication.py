"""Finds the duplicates of a collection: files with the same bytes, and clips whose vectors are nearly the same."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from maeast_upstream.checks import check_number
from maeast_upstream.data.embeddings import Embeddings, EmbeddingTable
from maeast_upstream.messages import counted
from maeast_upstream.similarity.bounds import BLOCK_ROWS
from maeast_upstream.similarity.clips import Clips
from maeast_upstream.similarity.contents import NOT_FOUND, contents_of
from maeast_upstream.similarity.groups import Groups
from maeast_upstream.similarity.pairs import Pairs, SimilarPairs
from maeast_upstream.similarity.unit_rows import unit_rows

THRESHOLD, WHITENED_THRESHOLD = 0.99, 0.9
"""Cosine from which clips count as near-duplicates, of vectors as they are and of whitened ones; docs/search.md shows
why."""
SHOWN_PAIRS = 5
Compare = Literal["both", "bytes", "vectors"]


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A clip of a group of duplicates."""

    group: int
    """Number of the group, counted from 1."""
    path: str
    """As it stands in the table."""
    segment: int
    start_ms: float
    end_ms: float
    """NaN for the end of the file."""
    similarity: float
    """Cosine with the kept clip of the group; below the threshold where other clips of the group link the two."""
    kind: Literal["exact", "near"]
    """Whether the clip has the same bytes and times as the kept one."""
    keep: bool
    """Whether this is the clip to keep: the longest of the group whose file is there, of equal ones the first."""


@dataclass(frozen=True, kw_only=True)
class SimilarPair:
    """Two clips whose similarity is near the threshold."""

    similarity: float
    first: str
    """Path, and the times if the clip is one of several parts of a file."""
    second: str


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The duplicates of a collection."""

    threshold: float
    rows: int
    """Number of clips of the table."""
    found: tuple[Duplicate, ...]
    """The clips of all groups, the groups in the order of the table; in each the kept clip comes first."""
    above: tuple[SimilarPair, ...]
    """Some pairs that the threshold makes duplicates, those nearest to it first."""
    below: tuple[SimilarPair, ...]
    """Some pairs up to 0.01 below it, those nearest to it first."""
    removable: tuple[str, ...]
    """Paths of files of which the table has no clip that is kept or is no duplicate."""
    not_found: tuple[str, ...]
    """Paths of files that are not there or cannot be read, whose bytes were not compared."""
    zero_vectors: int
    """Clips whose vector is zero: it has no direction, so that it was not compared."""
    repeated: int
    """Clips that the table lists a second time: the same times of the same file; they were left out."""


def duplicates(
    table: str | Path | EmbeddingTable | Embeddings,
    threshold: float | None = None,
    compare: Compare = "both",
    folder: str | Path | None = None,
) -> Duplicates:
    """Find the groups of clips that are copies of each other; nothing is deleted.

    Two clips belong to one group if their files have the same bytes and they have the same times, if the cosine of
    their vectors reaches the threshold, or if other clips link them so. Overlapping parts of one recording do not
    count as copies of each other.

    Args:
        table: A table of scene embeddings, its path, or its rows.
        threshold: The smallest cosine of near-duplicates, from -1 to 1; None for `WHITENED_THRESHOLD` if the vectors
            are whitened and not shortened, and otherwise `THRESHOLD`.
        compare: The "bytes" of files, the "vectors", or "both".
        folder: Where relative paths of the table start; None for the folder that the table names, or the current one.

    Raises:
        ValueError: The table cannot be read or has fewer than two rows, the threshold is out of range, the
            folder does not exist, or bytes are to be compared and no file is found.
        OSError: There is no room for the vectors of a large table in the folder of temporary files.
    """
    if not isinstance(table, Embeddings | EmbeddingTable):
        table = EmbeddingTable(table)
    threshold = default_threshold(table) if threshold is None else threshold
    check_threshold(threshold)
    if compare not in get_args(Compare):
        raise ValueError(f"compare must be {', '.join(get_args(Compare))}, got {compare!r}")
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder for relative paths of the table to start at")
    clips, unit = _read(table, folder)
    rows = np.unique(clips.parts(clips.recording), return_index=True)[1]
    contents = np.full(len(clips.recordings), NOT_FOUND)
    if compare != "vectors":
        contents = contents_of(clips.recordings)
    if compare == "bytes" and (contents == NOT_FOUND).all():
        raise ValueError(
            f"{clips.names[0]}: not found, nor is any other file of the table; relative paths start at {clips.folder}"
        )
    content = contents[clips.recording]
    same_bytes = np.where(content == NOT_FOUND, NOT_FOUND, clips.parts(content))
    groups = Groups(len(unit))
    _join_equal(groups, same_bytes, rows)
    pairs = SimilarPairs(unit, threshold, groups, clips.overlap)
    if compare != "bytes":
        pairs.join(rows)
    members = [_kept_first(group, clips, content != NOT_FOUND) for group in groups.members()]
    return Duplicates(
        threshold=threshold,
        rows=len(unit),
        found=tuple(_found(members, clips, unit, same_bytes)),
        above=_shown(pairs.above, clips),
        below=_shown(pairs.below, clips),
        removable=_removable(members, clips, rows),
        not_found=() if compare == "vectors" else _first_names(clips, contents == NOT_FOUND),
        zero_vectors=pairs.zero_vectors,
        repeated=len(unit) - len(rows),
    )


def default_threshold(table: EmbeddingTable | Embeddings) -> float:
    """The threshold for vectors of a table; for rows without a table, and for shortened vectors, `THRESHOLD`."""
    if not isinstance(table, EmbeddingTable) or table.origin is None or table.readout is None:
        return THRESHOLD
    shortened = table.readout.dims is not None or table.origin.reduction is not None
    return WHITENED_THRESHOLD if table.readout.whiten and not shortened else THRESHOLD


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless a threshold is one of cosines."""
    check_number("threshold", threshold)
    if not -1 <= threshold <= 1:
        raise ValueError(f"a threshold is a cosine, from -1 to 1, got {threshold:g}")


def _read(table: EmbeddingTable | Embeddings, folder: str | Path | None) -> tuple[Clips, np.ndarray]:
    """Return the clips of a table and their vectors at length 1."""
    if isinstance(table, Embeddings):
        root = table.root
        rows, dimensions, name, blocks = len(table.paths), table.vectors.shape[1], "", iter([table])
        if not np.isfinite(table.vectors).all():
            raise ValueError("NaN or infinite values in the embeddings")
    else:
        root = table.root
        rows, dimensions, name, blocks = table.rows, table.dimensions, f"{table.path}: ", table.blocks()
    if rows < 2:
        raise ValueError(f"{name}{counted(rows, 'embedding')}; expected at least 2 to compare")
    clips = Clips(str(root or "." if folder is None else folder))
    return clips, unit_rows(clips.reading(blocks), rows, dimensions)


def _join_equal(groups: Groups, numbers: np.ndarray, rows: np.ndarray) -> None:
    """Join those of ``rows`` that have the same number."""
    known = rows[numbers[rows] != NOT_FOUND]
    _, first, inverse = np.unique(numbers[known], return_index=True, return_inverse=True)
    groups.join(known, known[first[inverse]])


def _kept_first(group: np.ndarray, clips: Clips, is_found: np.ndarray) -> np.ndarray:
    """Return the rows of a group in their order, but before them the longest clip, of equal ones the first.

    A clip whose file was found comes before one that may be gone: the others are deleted for it.
    """
    found = is_found[group] | ~is_found[group].any()
    kept = int(np.where(found, clips.end_ms[group] - clips.start_ms[group], -np.inf).argmax())
    return np.concatenate([group[kept : kept + 1], np.delete(group, kept)])


def _found(
    members: Sequence[np.ndarray], clips: Clips, unit: np.ndarray, same_bytes: np.ndarray
) -> Iterator[Duplicate]:
    for number, rows in enumerate(members, start=1):
        exact = (same_bytes[rows] == same_bytes[rows[0]]) & (same_bytes[rows] != NOT_FOUND)
        exact[0] = True
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            similarity = np.where(exact[start : start + BLOCK_ROWS], 1, unit[block] @ unit[rows[0]])
            for position, (row, value) in enumerate(zip(block.tolist(), similarity.tolist(), strict=True), start):
                end = float(clips.end_ms[row])
                yield Duplicate(
                    group=number,
                    path=clips.names[clips.name[row]],
                    segment=int(clips.segment[row]),
                    start_ms=float(clips.start_ms[row]),
                    end_ms=end if math.isfinite(end) else math.nan,
                    similarity=value,
                    kind="exact" if exact[position] else "near",
                    keep=position == 0,
                )


def _removable(members: Sequence[np.ndarray], clips: Clips, rows: np.ndarray) -> tuple[str, ...]:
    """Return the paths of files all of whose clips among ``rows`` are copies of clips that are kept."""
    copies = np.concatenate([np.zeros(0, np.int64), *(group[1:] for group in members)])
    files = len(clips.recordings)
    total = np.bincount(clips.recording[rows], minlength=files)
    return _first_names(clips, np.bincount(clips.recording[copies], minlength=files) == total)


def _first_names(clips: Clips, chosen: np.ndarray) -> tuple[str, ...]:
    """Return the first path of each recording that is chosen, (recordings,) bool."""
    recordings, first = np.unique(clips.recording, return_index=True)
    return tuple(clips.names[clips.name[row]] for row in np.sort(first[chosen[recordings]]))


def _shown(pairs: Pairs, clips: Clips) -> tuple[SimilarPair, ...]:
    """Return a few pairs for people: of different files, since many pairs of the same two groups would show nothing."""
    shown: list[SimilarPair] = []
    files: set[int] = set()
    for similarity, first, second in zip(*(column.tolist() for column in pairs), strict=True):
        recordings = {int(clips.recording[first]), int(clips.recording[second])}
        if not recordings & files and len(shown) < SHOWN_PAIRS:
            files |= recordings
            shown.append(SimilarPair(similarity=similarity, first=clips.shown(first), second=clips.shown(second)))
    return tuple(shown)

"""Writes what was found in recordings as selection tables of Raven or label tracks of Audacity, a file for each.

`data.annotations` reads them again, with the same parts and labels.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.data.annotations import END, OFFSET, START
from maeast_upstream.data.recordings import INDEX_COLUMNS, INDEX_NAME, as_field
from maeast_upstream.display import as_text
from maeast_upstream.extract.npy_names import name_of
from maeast_upstream.messages import counted
from maeast_upstream.storage import delimited
from maeast_upstream.storage.folder import Storage
from maeast_upstream.storage.remote import is_remote

logger = logging.getLogger(__name__)

ENDINGS = {"raven": ".selections.txt", "audacity": ".txt"}
"""The forms, and how the names of their files end."""
RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", START, END, "Low Freq (Hz)", "High Freq (Hz)"),
    *("Annotation", "Confidence", "Begin Path", OFFSET),
)
"""Those of BirdNET-Analyzer, but for the species, which Raven calls an annotation."""
TOLERANCE_MS = 1e-6
"""Windows count as adjacent in spite of the rounding of their times."""


class Found(NamedTuple):
    """A part of a recording in which a label was found."""

    path: str
    """The recording, as tables store it."""
    start_ms: float
    end_ms: float
    label: str
    probability: float


def merge_adjacent(rows: Iterable[Found], gap_ms: float = 0.0) -> list[Found]:
    """Join parts of one recording with the same label that overlap or follow one another.

    Args:
        rows: In any order.
        gap_ms: How far apart they may be.

    Returns:
        The parts, with the highest probability of those joined; recordings in the order of their first row, and the
        parts of each by their start.
    """
    groups: dict[str, dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.path][row.label].append(row)
    merged = []
    for labels in groups.values():
        joined = [part for parts in labels.values() for part in _joined(parts, gap_ms + TOLERANCE_MS)]
        merged += sorted(joined, key=lambda row: (row.start_ms, row.end_ms, -row.probability))
    return merged


def _joined(parts: list[Found], gap_ms: float) -> Iterator[Found]:
    parts = sorted(parts, key=lambda row: (row.start_ms, row.end_ms))
    last = parts[0]
    for row in parts[1:]:
        if row.start_ms <= last.end_ms + gap_ms:
            end, probability = max(last.end_ms, row.end_ms), max(last.probability, row.probability)
            last = last._replace(end_ms=end, probability=probability)
        else:
            yield last
            last = row
    yield last


def raven_lines(rows: Iterable[Found], root: str = "") -> Iterator[str]:
    r"""Format the rows of a recording as a selection table, each line with "\n" at its end.

    Frequencies are those that the model hears, up to half its sample rate. ``Begin Path`` is absolute, so that Raven
    opens the recording with the table.

    Args:
        rows: The parts of one recording.
        root: The folder that paths are relative to; "" for the current one.
    """
    yield "\t".join(RAVEN_COLUMNS) + "\n"
    for number, row in enumerate(rows, start=1):
        start, end = seconds(row.start_ms), seconds(row.end_ms)
        place = ("Spectrogram 1", "1", start, end, "0", str(SAMPLE_RATE // 2))
        label, path = as_field(row.label), as_field(absolute(row.path, root))
        yield "\t".join((str(number), *place, label, f"{row.probability:.4f}", path, start)) + "\n"


def audacity_lines(rows: Iterable[Found]) -> Iterator[str]:
    r"""Format the rows of a recording as a label track, each line with "\n" at its end.

    The probability follows the label, as BirdNET-Analyzer writes it; Audacity does not read it.
    """
    for row in rows:
        label = as_field(row.label)
        yield f"{seconds(row.start_ms)}\t{seconds(row.end_ms)}\t{label}\t{row.probability:.4f}\n"


def write_annotations(
    folder: Storage,
    recordings: Iterable[tuple[str, Sequence[Found]]],
    form: str,
    root: str = "",
    scratch: Storage | None = None,
    merge: bool = False,
) -> int:
    """Write a file for each recording, and `INDEX_NAME`, which lists the recording of each file.

    The files of ``sub/clip.wav`` are ``sub/clip.wav.selections.txt`` and ``sub/clip.wav.txt``. No two recordings share
    one, see `npy_names`. A file that was corrected since it was written is kept, and a warning says so.

    Args:
        folder: Where they are written.
        recordings: The path of each recording, each once, and its rows; see `by_recording`.
        form: One of `ENDINGS`.
        root: The folder that paths are relative to; "" for the current one.
        scratch: A folder of the same file system for files that are not whole yet.
        merge: Whether parts with the same label that overlap or follow one another become one, see `merge_adjacent`.

    Returns:
        The number of recordings.

    Raises:
        OSError: Writing failed, for example on a full disk.
    """
    folder.make()
    any_case = folder.is_local and _takes_any_case(folder)
    is_new, index, corrected = not folder.exists(INDEX_NAME), [], []
    for path, rows in recordings:
        name = name_of(path, ".txt", any_case) + ENDINGS[form]
        folder.make(os.path.dirname(name))  # noqa: PTH120  (inside any file system)
        forms = [_content(rows, form, root), _content(merge_adjacent(rows), form, root)]
        if not is_new and folder.exists(name) and _read(folder, name) not in forms:
            corrected.append(name)
        else:
            with folder.writing(name, scratch, durable=False) as file:
                file.write(forms[merge])
        index.append((as_field(name), as_field(absolute(path, root))))
    if corrected:
        logger.warning("kept, as changed since it was written: %s, such as %s; --force writes all again",
                       counted(len(corrected), "file"), as_text(folder.path(corrected[0])))  # fmt: skip
    with folder.writing(INDEX_NAME, scratch) as file:
        file.writelines(line.encode() for line in delimited.lines([INDEX_COLUMNS, *index]))
    return len(index)


def _content(rows: Iterable[Found], form: str, root: str) -> bytes:
    lines = raven_lines(rows, root) if form == "raven" else audacity_lines(rows)
    return "".join(lines).encode("utf-8", "backslashreplace")


def _read(folder: Storage, name: str) -> bytes:
    with folder.open(name) as file:
        content: bytes = file.read()
    return content


def annotation_names(form: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield the names of the files that `write_annotations` may have written for recordings, and that of the index."""
    yield INDEX_NAME
    for path in paths:
        for any_case in (False, True):
            yield name_of(path, ".txt", any_case) + ENDINGS[form]


def by_recording(rows: Callable[[], Iterable[Found]]) -> Iterator[tuple[str, list[Found]]]:
    """Yield the path and the rows of each recording, once.

    Memory is that of the recordings whose rows do not follow one another, besides a number for each recording.

    Args:
        rows: Returns the rows from the first one; called twice.
    """
    left = Counter(row.path for row in rows())
    kept: dict[str, list[Found]] = defaultdict(list)
    for row in rows():
        kept[row.path].append(row)
        if len(kept[row.path]) == left[row.path]:
            yield row.path, kept.pop(row.path)


def seconds(ms: float) -> str:
    """Return a time in seconds to the nanosecond, with at least the six digits that Audacity writes."""
    whole, _, digits = f"{ms / 1000:.9f}".partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(6, '0')}"


def absolute(path: str, root: str = "") -> str:
    """Return a path of a table as it is found from any folder; an address stays as it is."""
    if is_remote(path):
        return path
    return os.path.abspath(os.path.join(root, path))  # noqa: PTH100, PTH118  (as text, with marks for bytes)


def _takes_any_case(folder: Storage) -> bool:
    """Whether the file system takes names that differ only in case for one."""
    with folder.writing("_case", durable=False) as file:
        file.write(b"")
    found = folder.exists("_CASE")
    folder.remove("_case")
    return found

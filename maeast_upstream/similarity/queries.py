"""What is searched for: files, segments of files, rows of the table, audio in memory, or vectors."""

import functools
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maeast_upstream.audio.constants import MAX_HOURS
from maeast_upstream.audio.joining import join_in_memory
from maeast_upstream.audio.reading import AudioError, within_hours
from maeast_upstream.data.embeddings import Embeddings, EmbeddingTable
from maeast_upstream.data.inputs import Segment, segment_of
from maeast_upstream.decoding.worker import decode_segment
from maeast_upstream.display import as_name, from_name
from maeast_upstream.encoder import Encoder
from maeast_upstream.extract.api import waveform_of
from maeast_upstream.extract.pipeline import refuse_training
from maeast_upstream.frontend import SAMPLE_RATE, num_samples
from maeast_upstream.readout import Readout
from maeast_upstream.similarity.nearest import unit
from maeast_upstream.storage.remote import is_remote

logger = logging.getLogger(__name__)

SEGMENT = re.compile(r"(?P<path>.+)@(?P<start>\d+\.?\d*|\.\d+)-(?P<end>\d+\.?\d*|\.\d+)", re.DOTALL | re.ASCII)
"""``call.wav@1.2-2.0``: a file, and where a part of it begins and ends in seconds."""
QUIETEST = 2.0**-15
"""Audio that differs less than this from its mean, one step of 16-bit samples, is silent."""
SAME_MS = 1.0
"""Times in a table are those of samples; up to this far away they are the same as the ones that were asked for."""

Table = EmbeddingTable | Embeddings
QueryLike = str | Path | Segment | Mapping[str, Any] | np.ndarray


class TooShortError(ValueError):
    """Audio is shorter than a token, so that most of what would be compared is silence."""


@dataclass(frozen=True)
class Query:
    """A vector to search for, and where it comes from."""

    name: str
    vector: np.ndarray
    """(E,) float32."""
    own_rows: frozenset[int] = frozenset()
    """Rows of the table that are the very same audio."""


@dataclass(frozen=True)
class Place:
    """Where a query lies: a file, or a segment of one."""

    path: str
    start_ms: float = 0.0
    end_ms: float = math.nan
    """NaN for the end of the file."""

    def matches(self, row: Embeddings) -> bool:
        """Whether a row of the table is this audio, to the millisecond."""
        if _real(from_name(row.files[0])) != _real(self.path):
            return False
        start, end = float(row.start_ms[0]), float(row.end_ms[0])
        open_ended = math.isnan(end) or math.isnan(self.end_ms)
        return abs(start - self.start_ms) <= SAME_MS and (open_ended or abs(end - self.end_ms) <= SAME_MS)


def find_queries(
    given: Iterable[QueryLike], table: Table, readout: Readout | None, load: Callable[[], Encoder]
) -> list[Query]:
    """Find the vector of each query.

    Args:
        given: See `search`.
        table: Where rows are looked up.
        readout: How its vectors were made; None if it does not tell.
        load: Returns the encoder that made them; only called if audio is to be embedded.

    Raises:
        ValueError: One cannot be read, is silent, too short or in no file and no row.
    """
    load = functools.cache(load)
    queries = []
    for number, item in enumerate(given, start=1):
        if isinstance(item, np.ndarray):
            queries += _vectors(item, f"vector {number}", table)
        elif isinstance(item, Mapping):
            queries.append(_of_audio(f"audio {number}", _in_memory(item, number), table, readout, load))
        elif isinstance(item, (str, Path)):
            queries.append(_of_text(str(item), table, readout, load))
        elif isinstance(item, Segment):
            queries.append(_of_segment(_segment_name(item), item, table, readout, load))
        else:
            expected = "paths, segments, mappings with array and sampling_rate, or vectors"
            raise ValueError(f"a query of type {type(item).__name__}; expected {expected}")
    return queries


def _segment_name(segment: Segment) -> str:
    if segment.start_ms is None and segment.end_ms is None:
        return segment.path
    end = "end" if segment.end_ms is None else f"{segment.end_ms / 1000:g}"
    return f"{segment.path}@{(segment.start_ms or 0) / 1000:g}-{end}"


def average(queries: Sequence[Query]) -> Query:
    """Return one query for several: the mean of their vectors, each scaled to length 1 before."""
    mean = unit(np.stack([query.vector for query in queries])).mean(0)
    return Query(" + ".join(query.name for query in queries), mean, frozenset().union(*(q.own_rows for q in queries)))


def _of_text(text: str, table: Table, readout: Readout | None, load: Callable[[], Encoder]) -> Query:
    segment = SEGMENT.fullmatch(text)
    is_file = is_remote(text) or os.path.lexists(text)
    if segment and not is_file:
        path, start, end = segment["path"], 1000 * float(segment["start"]), 1000 * float(segment["end"])
        if not start < end:
            raise ValueError(f"{text}: a segment that ends before it begins; expected FILE@START-END in seconds")
        place = Place(path, start, end)
        is_file = is_remote(path) or os.path.lexists(path)
    else:
        place = Place(text)
    if is_file and Path(place.path).is_dir():
        raise ValueError(f"{text}: a folder; expected audio files, or rows of the table")
    if is_file and readout is not None:
        times = (place.start_ms, None if math.isnan(place.end_ms) else place.end_ms) if segment else (None, None)
        found = Segment(place.path, start_ms=times[0] or None, end_ms=times[1])
        return _of_segment(text, found, table, readout, load)
    return _of_row(text, place, table, is_file)


def _of_row(text: str, place: Place, table: Table, is_file: bool) -> Query:
    """Return the row of the table that has a path, and times if they are given."""
    name = as_name(place.path)
    rows = [
        (row, found)
        for row, found in table.named(os.path.basename(name))  # noqa: PTH119
        if found.paths[0] == name or _real(from_name(found.files[0])) == _real(place.path)
    ]
    exact = [(row, found) for row, found in rows if place.start_ms == 0 or place.matches(found)]
    if not math.isnan(place.end_ms):
        exact = [(row, found) for row, found in rows if replace(place, path=from_name(found.files[0])).matches(found)]
    if not rows:
        hint = "; the table does not tell its checkpoint, so that no audio can be embedded" if is_file else ""
        problem = "not in the table" if is_file else "no such file, and no row of the table has this path"
        raise ValueError(f"{text}: {problem}{hint}")
    if len(exact) != 1:
        start, end = (float(times[0]) / 1000 for times in (rows[0][1].start_ms, rows[0][1].end_ms))
        example = f"{place.path}@{start:g}-{end:g}"
        raise ValueError(f"{text}: {len(rows)} rows of the table have this path; give one of them, such as {example}")
    row = exact[0][0]
    return Query(text, table.take([row]).vectors[0], frozenset([row]))


def _of_segment(
    name: str, segment: Segment, table: Table, readout: Readout | None, load: Callable[[], Encoder]
) -> Query:
    try:
        whole = segment_of(segment.path) if segment.offset is None and not segment.file else segment
        whole = replace(whole, start_ms=segment.start_ms, end_ms=segment.end_ms)
        decoded = decode_segment(whole, _join)
    except AudioError as error:
        raise ValueError(str(error)) from error
    for note in decoded.notes:
        logger.warning("%s: %s", name, note)
    start = segment.start_ms or 0.0
    place = Place(segment.path, start, start + 1000 * len(decoded.samples) / SAMPLE_RATE)
    base = os.path.basename(as_name(segment.path))  # noqa: PTH119
    own = frozenset(row for row, found in table.named(base) if place.matches(found))
    try:
        return replace(_of_audio(name, decoded.samples, table, readout, load), own_rows=own)
    except TooShortError:
        if not own:
            raise
        return Query(name, table.take([min(own)]).vectors[0], own)


def _of_audio(
    name: str, samples: np.ndarray, table: Table, readout: Readout | None, load: Callable[[], Encoder]
) -> Query:
    """Embed (S,) samples at 16 kHz as the rows of the table were embedded."""
    if readout is None:
        raise ValueError(f"{name}: the table does not tell how it was made, so that no audio can be embedded for it")
    if not len(samples) or np.abs(samples - samples.mean()).max() < QUIETEST:
        raise ValueError(f"{name}: silent; expected a sound to search for")
    encoder = load()
    refuse_training(encoder)
    shortest = num_samples(encoder.config.model.patch_frames)
    if len(samples) < shortest:
        long, least = (1000 * count / SAMPLE_RATE for count in (len(samples), shortest))
        raise TooShortError(f"{name}: {long:.0f} ms long, shorter than a token of {least:g} ms; give a longer segment")
    with torch.no_grad():
        (vectors,) = encoder.embed_readouts([torch.from_numpy(samples)], [readout])
    return Query(name, _reduced(vectors[0].cpu().numpy(), name, table))


def _vectors(given: np.ndarray, name: str, table: Table) -> list[Query]:
    rows = np.asarray(given, np.float32).reshape(-1, given.shape[-1]) if given.ndim in (1, 2) else None
    if rows is None or not len(rows):
        raise ValueError(f"{name}: an array of shape {given.shape}; expected (E,) or (n, E)")
    names = [name] if len(rows) == 1 else [f"{name}.{number}" for number in range(1, len(rows) + 1)]
    return [Query(each, _reduced(row, each, table)) for each, row in zip(names, rows, strict=True)]


def _reduced(vector: np.ndarray, name: str, table: Table) -> np.ndarray:
    """Project a vector of the readout as the rows of the table were; one that is as long as these stays as it is."""
    reduction = table.origin.reduction if isinstance(table, EmbeddingTable) and table.origin else None
    if reduction is not None and len(vector) == reduction.components.shape[1]:
        vector = reduction.apply(vector[None])[0]
    if len(vector) != table.dimensions:
        raise ValueError(f"{name}: a vector of length {len(vector)}; the table has vectors of {table.dimensions}")
    if not (np.isfinite(vector).all() and vector.any()):
        raise ValueError(f"{name}: its vector is zero or not finite, so that nothing is similar to it")
    return vector


def _in_memory(item: Mapping[str, Any], number: int) -> np.ndarray:
    try:
        return waveform_of(item)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"audio {number}: {error}") from error


def _join(blocks: Any) -> np.ndarray:
    return join_in_memory(within_hours(blocks, MAX_HOURS, "query"))


def _real(path: str) -> str:
    return path if is_remote(path) else os.path.realpath(path)

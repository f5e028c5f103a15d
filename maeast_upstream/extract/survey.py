"""Lists the inputs of a run once and counts what has to be done."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from maeast_upstream.data.inputs import STDIN, Segment, cost, list_segments


@dataclass(frozen=True)
class Survey:
    """What the inputs are, before any is decoded."""

    segments: int
    bytes: int
    """About the size of the audio, see `inputs.cost`."""
    digest: str
    """Of their names and places."""


class Listing:
    """The inputs' segments, as often as they are asked for; what comes on stdin is kept for that."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self.inputs = inputs
        self.spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=1 << 24)  # noqa: SIM115  (lives as long as the run)
        if STDIN in inputs:
            if sys.stdin is None:
                raise ValueError(f"{STDIN}: stdin is closed; expected a list of paths")
            shutil.copyfileobj(sys.stdin.buffer, self.spool)

    def __iter__(self) -> Iterator[Segment]:
        self.spool.seek(0)
        return list_segments(self.inputs, cast(BinaryIO, self.spool))


def take_survey(listing: Listing) -> Survey:
    """Go through the list once: it is counted, and what is wrong with it shows before the model is loaded.

    Raises:
        ValueError: an input does not exist, or there is no audio at all.
    """
    digest, count, size = hashlib.sha256(), 0, 0
    for segment in listing:
        digest.update(f"{segment!r}\n".encode("utf-8", "surrogateescape"))
        count, size = count + 1, size + cost(segment)
    if not count:
        raise ValueError(f"no audio in {', '.join(listing.inputs)}")
    return Survey(count, size, digest.hexdigest()[:16])

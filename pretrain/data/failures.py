"""Clips that could not be decoded: counted, logged once each, and a reason to stop when they are too many."""

import logging
from collections.abc import Iterable
from itertools import islice

from pretrain.data.batches import Batch
from pretrain.data.clips import Clips

logger = logging.getLogger(__name__)

MIN_READS = 200
"""Clips that must have been read before the share of failures counts."""
MAX_LISTED_FAILURES = 10


class DecodeFailures:
    """The clips that a run could not decode so far."""

    def __init__(self, max_share: float, unlisted: Iterable[tuple[str, str]] = ()) -> None:
        """Begin with the clips that could not even be listed: pairs of name and reason."""
        self.max_share = max_share
        self.reads, self.failures = 0, 0
        self.reasons: dict[str, str] = {}
        self._note(unlisted)

    def add(self, batch: Batch) -> None:
        """Count a batch's failures.

        Raises:
            ValueError: nothing could be decoded, or failures are more than ``max_share`` of what was read.
        """
        self._note(batch.failures)
        self.reads += batch.reads
        self.failures += len(batch.failures)
        if len(batch.waveforms) == 0:
            raise ValueError(f"no clip of the corpus could be decoded: {list_failures(self.reasons)}")
        if self.reads >= MIN_READS and self.failures > self.max_share * self.reads:
            raise ValueError(
                f"{self.failures} of {self.reads} clips read could not be decoded, above data.max_bad_share "
                f"{self.max_share:g}: {list_failures(self.reasons)}"
            )

    def _note(self, failures: Iterable[tuple[str, str]]) -> None:
        for name, reason in failures:
            if name not in self.reasons:
                self.reasons[name] = reason
                logger.warning("skipped %s: %s", name, reason)


def refuse_bad_share(clips: Clips, max_share: float, corpus: str) -> None:
    """ValueError if more than ``max_share`` of the files of ``corpus`` could not be listed or packed."""
    bad, total = len(clips.failures), len(clips.failures) + len(clips.lengths)
    if bad > max_share * total:
        raise ValueError(
            f"{bad} of {total} files of {corpus} could not be decoded, above data.max_bad_share {max_share:g}: "
            f"{list_failures(clips.failures)}"
        )


def list_failures(reasons: dict[str, str]) -> str:
    """The first failures with their reasons, in one line."""
    shown = [f"{name} ({reason})" for name, reason in islice(reasons.items(), MAX_LISTED_FAILURES)]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {more} more, all in the log" if more else "")

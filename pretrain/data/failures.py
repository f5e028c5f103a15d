"""Clips that could not be decoded: counted, logged once each, and a reason to stop when they are too many."""

import logging
from collections.abc import Iterable

from pretrain.data.batches import Batch

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
            raise ValueError(f"no clip of the corpus could be decoded: {self.listing()}")
        if self.reads >= MIN_READS and self.failures > self.max_share * self.reads:
            raise ValueError(
                f"{self.failures} of {self.reads} clips read could not be decoded, above data.max_bad_share "
                f"{self.max_share:g}: {self.listing()}"
            )

    def listing(self) -> str:
        """The first failures with their reasons."""
        shown = [f"{name} ({reason})" for name, reason in list(self.reasons.items())[:MAX_LISTED_FAILURES]]
        more = len(self.reasons) - len(shown)
        return "; ".join(shown) + (f"; and {more} more, all in the log" if more else "")

    def _note(self, failures: Iterable[tuple[str, str]]) -> None:
        for name, reason in failures:
            if name not in self.reasons:
                self.reasons[name] = reason
                logger.warning("skipped %s: %s", name, reason)

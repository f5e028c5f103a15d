"""How far a run is: a bar in a terminal, a line a minute in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import is_quiet, progress_bar

LINE_SECONDS = 60.0


class Progress:
    """Clips done and a second, hours of audio a second, time left, errors so far."""

    def __init__(self, clips: int, before: PartReport) -> None:
        """Of ``clips`` in all, ``before`` were done by earlier runs."""
        self.hours, self.errors = 0.0, len(before.errors)
        self.begun = self.told = time.monotonic()
        first = before.clips + len(before.errors)
        self.bar = progress_bar(total=clips, initial=first, unit="clip")
        self.done, self.first = first, first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def add(self, report: PartReport) -> None:
        """Some more was done."""
        self.hours += report.samples / SAMPLE_RATE / 3600
        self.errors += len(report.errors)
        self.done += report.clips + len(report.errors)
        self.bar.set_postfix_str(self._rates(), refresh=False)
        self.bar.update(report.clips + len(report.errors))
        if self.bar.disable and not is_quiet() and sys.stderr and time.monotonic() - self.told > LINE_SECONDS:
            self.told = time.monotonic()
            tqdm.write(
                f"{self.done} of {self.bar.total} clips, {self._rates()}, {self._left()} left",
                file=sys.stderr,
            )

    def _rates(self) -> str:
        seconds = max(time.monotonic() - self.begun, 1e-9)
        return f"{self.hours / seconds:.3f} h of audio/s, {self.errors} errors"

    def _left(self) -> str:
        rate = (self.done - self.first) / max(time.monotonic() - self.begun, 1e-9)
        left = (int(self.bar.total or 0) - self.done) / max(rate, 1e-9)
        return tqdm.format_interval(left)

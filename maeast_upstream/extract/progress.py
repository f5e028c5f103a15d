"""Shows the progress of a run: by a bar in a terminal, by a line per minute in a log."""

import sys
import time
from typing import Self

from tqdm import tqdm

from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.progress import is_quiet, progress_bar

LINE_SECONDS = 60.0


class Progress:
    """A context manager that shows clips done, clips per second, hours of audio per second, errors and time left."""

    def __init__(self, clips: int, before: PartReport) -> None:
        """``before`` reports what earlier runs have done of all ``clips``."""
        self.hours, self.errors = 0.0, len(before.errors)
        self.start = self.last_line = time.monotonic()
        self.done = self.done_before = before.segments
        self.bar = progress_bar(total=clips, initial=before.segments, unit="clip")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, report: PartReport) -> None:
        """Show that more inputs are done."""
        self.hours += report.samples / SAMPLE_RATE / 3600
        self.errors += len(report.errors)
        self.done += report.segments
        self.bar.set_postfix_str(self._rates(), refresh=False)
        self.bar.update(report.segments)
        if self.bar.disable and not is_quiet() and sys.stderr and time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            left = f", {self._time_left()} left" if self.done > self.done_before else ""
            line = f"{self.done} of {self.bar.total} clips, {self._rates()}{left}"
            tqdm.write(line, file=sys.stderr)

    def _seconds(self) -> float:
        return max(time.monotonic() - self.start, 1e-9)

    def _rates(self) -> str:
        return f"{self.hours / self._seconds():.3f} h of audio/s, {self.errors} errors"

    def _time_left(self) -> str:
        rate = (self.done - self.done_before) / self._seconds()
        return tqdm.format_interval((int(self.bar.total or 0) - self.done) / rate)

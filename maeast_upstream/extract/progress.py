"""Shows the progress of a run: by a bar in a terminal, by a line per minute in a log."""

import time
from typing import Self

from tqdm import tqdm

from maeast_upstream.audio.constants import SAMPLE_RATE
from maeast_upstream.extract.part_store import PartReport
from maeast_upstream.messages import counted
from maeast_upstream.progress import progress_bar, say

LINE_SECONDS = 60.0
SETTLED_SECONDS = 5.0
"""Time after the first result from which on the rate is known: results come in blocks, and the first of one is late."""
BAR = "{n_fmt} of {total_fmt} clips |{bar}| {elapsed}{postfix}"


class Progress:
    """A context manager that shows clips done, the time left, how many times faster than real time, and errors.

    The number of clips is shown at once, the time left and the rate when they are known.
    """

    def __init__(self, clips: int, before: PartReport, announce: bool = False) -> None:
        """Show what is done.

        Args:
            clips: Of the whole run.
            before: What earlier runs have done of them.
            announce: Whether a log gets a line at once, too.
        """
        self.seconds, self.errors = 0.0, len(before.errors)
        self.start = self.last_line = time.monotonic()
        self.first: float | None = None
        self.done = self.done_before = before.segments
        self.bar = progress_bar(total=clips, initial=before.segments, bar_format=BAR)
        if announce:
            self._write_line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.set_postfix_str(self._text(with_rate=self.done > self.done_before), refresh=False)
        self.bar.close()

    def add(self, report: PartReport) -> None:
        """Show that more inputs are done."""
        self.first = self.first or time.monotonic()
        self.seconds += report.samples / SAMPLE_RATE
        self.errors += len(report.errors)
        self.done += report.segments
        self.bar.set_postfix_str(self._text(), refresh=False)
        self.bar.update(report.segments)
        if time.monotonic() - self.last_line > LINE_SECONDS:
            self._write_line()

    def _write_line(self) -> None:
        """Write a line, unless there is a bar."""
        self.last_line = time.monotonic()
        text = self._text()
        if self.bar.disable:
            say(f"{self.done} of {self.bar.total} clips{text and ', '}{text}")

    def _text(self, with_rate: bool = False) -> str:
        """What is known beside the clips: the time left, the rate, and errors."""
        is_settled = self.first is not None and time.monotonic() - self.first >= SETTLED_SECONDS
        elapsed = max(time.monotonic() - self.start, 1e-9)
        left, done = int(self.bar.total or 0) - self.done, self.done - self.done_before
        parts = [f"{tqdm.format_interval(left * elapsed / done)} left"] if is_settled and done and left else []
        if is_settled or with_rate:
            parts.append(f"{shown_speed(self.seconds / elapsed)} real time")
        return ", ".join([*parts, *([counted(self.errors, "error")] if self.errors else [])])


def shown_speed(times: float) -> str:
    """Return a factor with two digits or more: 0.41x, 4.1x, 2,500x."""
    return f"{times:,.0f}x" if times >= 10 else f"{times:.1f}x" if times >= 1 else f"{times:.2g}x"


def announce(clips: int, before: int) -> None:
    """Say in a terminal, before a model is loaded, how much there is to do."""
    say(f"{before} of {counted(clips, 'clip')}: loading the model", in_terminals_only=True)

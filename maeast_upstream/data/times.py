"""Times of segments in tables: the columns ``start_ms`` and ``end_ms``, or ``start`` and ``end`` in seconds."""

from collections.abc import Sequence
from decimal import Decimal

from maeast_upstream.audio.constants import MAX_MS
from maeast_upstream.data.tables import Header, parse_number

TIME_COLUMNS = ("start_ms", "end_ms", "start", "end")


class TimeColumns:
    """The columns of a table that hold times."""

    def __init__(self, header: Header) -> None:
        """Find the columns of times in a header.

        Raises:
            ValueError: A column occurs twice, or in seconds and in ms; without the name of the file.
        """
        self._separator = header.separator
        self._indices = {name: header.index(name) for name in TIME_COLUMNS if header.has(name)}
        for name in ("start", "end"):
            if name in self._indices and f"{name}_ms" in self._indices:
                raise ValueError(f"both {name} (in seconds) and {name}_ms; keep one")

    def segment(self, values: Sequence[str], where: str) -> tuple[float | None, float | None]:
        """Return the start and the end of a row's segment in ms; None for those of the file.

        Args:
            values: The values of the row.
            where: The table and the row, for messages.

        Raises:
            ValueError: A time is no number or below 0, or the segment does not end after its start.
        """
        start, end = (self._time_ms(values, name, where) for name in ("start", "end"))
        if end is not None and not (start or 0.0) < end:
            raise ValueError(f"{where}: starts at {start or 0:.10g} ms and ends at {end:.10g} ms")
        return start, end

    def _time_ms(self, values: Sequence[str], name: str, where: str) -> float | None:
        for column, factor in ((f"{name}_ms", 1.0), (name, 1000.0)):
            if column in self._indices and (text := values[self._indices[column]].strip()):
                return time_ms(text, factor, f"{where}: {column}", self._separator)
        return None


def time_ms(text: str, factor: float, what: str, separator: str = ",") -> float:
    """Return a time of a table in ms.

    Args:
        text: A number.
        factor: What makes it ms: 1000 for seconds.
        what: What has this time, for messages.
        separator: What separates the values of the table, see `parse_number`.

    Raises:
        ValueError: It is no number, below 0 or beyond any audio.
    """
    try:
        value = parse_number(text, separator)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None
    if not 0 <= value * factor <= MAX_MS:
        raise ValueError(f"{what} is {text[:40]}; expected 0 or more, up to {MAX_MS / factor:g}")
    return float(Decimal(repr(value)) * Decimal(factor))  # 1.001 s are 1001 ms, and not 1000.9999999999999

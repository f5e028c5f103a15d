"""The table of events: one row per onset, as a job writes it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maeast_upstream.events.detecting import WindowReader, as_rows
from maeast_upstream.events.detector import EventDetector
from maeast_upstream.events.steps import step_spec
from maeast_upstream.extract.outputs import TableBuilder
from maeast_upstream.extract.table import Embedded

if TYPE_CHECKING:
    import pyarrow as pa


class EventTableBuilder(TableBuilder):
    """Makes rows of events from the time steps of windows, which come in the order of the recordings."""

    def __init__(self, detector: EventDetector, metadata: dict[str, str]) -> None:
        """Make the schema.

        Args:
            detector: Finds the events.
            metadata: Of the schema.
        """
        super().__init__(event_schema(metadata), step_spec(detector.readout))
        self._reader = WindowReader(detector)

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """Return the rows of the recordings that end with one of these windows."""
        import pyarrow as pa

        found = [events for window in clips if (events := self._reader.add(window))]
        return pa.Table.from_pylist([row for events in found for row in as_rows(events)], schema=self.schema)


def event_schema(metadata: dict[str, str]) -> "pa.Schema":
    """Return the columns of a table of events."""
    import pyarrow as pa

    columns = [("path", pa.string()), ("segment", pa.int64()), ("start_ms", pa.float64()), ("end_ms", pa.float64())]
    return pa.schema([*columns, ("label", pa.string()), ("probability", pa.float32())], metadata=metadata)

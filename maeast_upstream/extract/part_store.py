"""The parts of a table on disk. Each appears when it is complete, so that an interrupted run can be continued.

A run of `maeast embed` cuts its inputs into parts of bounded work. A part is a parquet file whose metadata lists the
inputs that could not be read. The folder also holds the settings that the run was begun with.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maeast_upstream.extract.vector_columns import open_writer
from maeast_upstream.storage.folder import Storage, is_scratch
from maeast_upstream.storage.lock import locked
from maeast_upstream.storage.settings import refuse_changes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SETTINGS_NAME, LOCK_NAME = "_settings.json", "_lock"
"""Names of other files in the folder; readers of parquet folders ignore names that begin with an underscore."""
PART_NAME = re.compile(r"part-(\d{7,})\.parquet")
REPORT_KEY = b"maeast.part"
"""Key of a part's metadata for its report, as JSON."""


@dataclass
class PartReport:
    """The results of a part's inputs."""

    clips: int = 0
    """Number of clips that were embedded."""
    rows: int = 0
    samples: int = 0
    """Number of samples of their audio at 16 kHz."""
    errors: list[tuple[str, str, int]] = field(default_factory=list)
    """Name, reason and segment number of each input that could not be read."""
    warnings: list[tuple[str, int, str]] = field(default_factory=list)
    """Name, segment number and note for each note about an input; one input may have several."""
    state: str = ""
    """Digest of size and time of the part's files, see `survey.state_of`; "" in parts of 0.1.0."""
    failed_windows: int = 0
    """Number of the errors that are windows of clips, which count as clips all the same."""

    @property
    def segments(self) -> int:
        """Number of all inputs, with those that could not be read."""
        return self.clips + len(self.errors) - self.failed_windows

    def add(self, other: "PartReport") -> None:
        """Add another report to this one."""
        self.clips += other.clips
        self.rows += other.rows
        self.samples += other.samples
        self.errors += other.errors
        self.warnings += other.warnings
        self.failed_windows += other.failed_windows


class PartStore:
    """The folder with the parts of a run."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def begun(self) -> bool:
        """Whether a run was begun in this folder."""
        return self.storage.exists(SETTINGS_NAME)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the run was begun with."""
        try:
            with self.storage.open(SETTINGS_NAME) as file:
                settings: dict[str, Any] = json.load(file)
        except ValueError as error:
            raise ValueError(f"{self.storage.shown(SETTINGS_NAME)}: broken; give --force to start again") from error
        return settings

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begin a run, or continue one with the same settings.

        Raises:
            ValueError: The run was begun with other settings, and the message names the first one that differs; or the
                folder holds other files.
        """
        self.storage.remove_scratch()
        if self.begun:
            remedy = "give the same settings, another -o, or --force to start again"
            refuse_changes(self.settings(), settings, self.storage.shown(), remedy)
        elif others := [name for name in self.storage.names() if name != LOCK_NAME]:
            raise self._foreign(others[0])
        else:
            with self.storage.writing(SETTINGS_NAME) as file:
                file.write(json.dumps(settings, indent=1).encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock on a local folder, so that one process of this machine writes to it; make the folder.

        Raises:
            ValueError: Another process holds the lock.
        """
        self.storage.make()
        if not self.storage.is_local:
            yield
            return
        root = self.storage.root
        refusal = f"{self.storage.shown()}: another run is writing here; wait for it, or give another -o"
        with locked(Path(root) / LOCK_NAME, refusal):
            yield

    def numbers(self) -> list[int]:
        """Return the numbers of the complete parts in ascending order."""
        matches = (PART_NAME.fullmatch(name) for name in self.storage.names())
        return sorted(int(match[1]) for match in matches if match)

    @contextlib.contextmanager
    def write(self, number: int, schema: "pa.Schema") -> Iterator[tuple["pq.ParquetWriter", PartReport]]:
        """Yield a writer for a part and its report to fill; the part appears when the body ends without an error."""
        report = PartReport()
        with (
            self.storage.writing(_name(number)) as file,
            open_writer(file, schema, dictionary_columns(schema)) as writer,
        ):
            yield writer, report
            writer.add_key_value_metadata({REPORT_KEY: json.dumps(asdict(report)).encode()})

    def report(self, number: int) -> PartReport:
        """Read the report of a part.

        Raises:
            ValueError: The file is broken, which an interrupted run does not cause.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.storage.open(_name(number)) as file:
                report = json.loads((pq.read_metadata(file).metadata or {})[REPORT_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            path = self.storage.shown(_name(number))
            raise ValueError(f"{path}: not a complete part; remove it and run the same command again") from error
        for name in ("errors", "warnings"):  # 0.1.0 wrote no warnings
            report[name] = [tuple(row) for row in report.get(name, ())]
        return PartReport(**report)

    def total(self, segments: int | None = None) -> PartReport:
        """Return the report of all parts together.

        Raises:
            ValueError: They are not a table of this many segments, each in one part.
        """
        total = PartReport()
        for number in self.numbers():
            if segments is not None and number != total.segments:
                raise self._gap(total.segments, number)
            total.add(self.report(number))
        if segments not in (None, total.segments):
            raise self._gap(total.segments, segments)
        return total

    def _gap(self, end: int, number: int | None) -> ValueError:
        return ValueError(
            f"{self.storage.shown()}: the part before clip {number} ends at {end}; was another run writing here? "
            "Give --force to start again"
        )

    def remove_part(self, number: int) -> None:
        """Remove a part, which is then made again."""
        self.storage.remove(_name(number))

    def tables(self) -> Iterator["pa.Table"]:
        """Yield the rows of all parts in order, one row group at a time."""
        import pyarrow.parquet as pq

        for number in self.numbers():
            with (
                self.storage.open(_name(number)) as stream,
                pq.ParquetFile(stream) as file,
            ):
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)

    def remove(self) -> None:
        """Remove the files of the run, the settings first, so that no run remains if this is interrupted.

        The folder is removed if it is then empty.
        """
        for name in (SETTINGS_NAME, *filter(_is_ours, self.storage.names())):
            self.storage.remove(name)
        self.storage.remove_if_empty()

    def refuse_foreign_files(self) -> None:
        """Raise ValueError if the folder holds files that are not of a run."""
        for name in self.storage.names():
            if not _is_ours(name):
                raise self._foreign(name)

    def _foreign(self, name: str) -> ValueError:
        return ValueError(f"{self.storage.shown()}: a folder with other things in it, such as {name}; give another -o")


def dictionary_columns(schema: "pa.Schema") -> list[str]:
    """Return the columns of a table whose values recur, for which dictionary encoding saves space."""
    return [name for name in ("path", "layer", "label") if name in schema.names]


def _is_ours(name: str) -> bool:
    return name in (SETTINGS_NAME, LOCK_NAME) or bool(PART_NAME.fullmatch(name)) or is_scratch(name)


def _name(number: int) -> str:
    return f"part-{number:07d}.parquet"

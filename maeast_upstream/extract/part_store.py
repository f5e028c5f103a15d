"""The parts of a table on disk: each whole or not there at all, so that a killed run goes on where it was.

A run of `maeast embed` cuts its inputs into parts of bounded work. A part is a parquet file that tells in its
metadata which inputs could not be read. The folder says with which settings it was begun.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maeast_upstream.storage.folder import Storage, is_scratch
from maeast_upstream.storage.lock import locked
from maeast_upstream.storage.settings import refuse_changes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SETTINGS_NAME, LOCK_NAME = "_settings.json", "_lock"
"""Readers of parquet folders pass over names that begin with an underscore."""
PART_NAME = re.compile(r"part-(\d{7,})\.parquet")
REPORT_KEY = b"maeast.part"


@dataclass
class PartReport:
    """What became of a part's inputs."""

    clips: int = 0
    """Embedded."""
    rows: int = 0
    samples: int = 0
    """Of the audio, at 16 kHz."""
    errors: list[tuple[str, str, int]] = field(default_factory=list)
    """Names, reasons and segments of what could not be read."""

    @property
    def segments(self) -> int:
        """Inputs that were tried."""
        return self.clips + len(self.errors)

    def add(self, other: "PartReport") -> None:
        """Sum up."""
        self.clips += other.clips
        self.rows += other.rows
        self.samples += other.samples
        self.errors += other.errors


class PartStore:
    """The folder of a run's parts."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def begun(self) -> bool:
        """Whether a run began here."""
        return self.storage.exists(SETTINGS_NAME)

    def settings(self) -> dict[str, Any]:
        """What the run was begun with."""
        try:
            with self.storage.open(SETTINGS_NAME) as file:
                settings: dict[str, Any] = json.load(file)
        except ValueError as error:
            raise ValueError(f"{self.storage.path(SETTINGS_NAME)}: broken; give --force to begin anew") from error
        return settings

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with the same settings.

        Raises:
            ValueError: begun with other settings, naming the first that differs; or a folder of something else.
        """
        self.storage.remove_scratch()
        if self.begun:
            remedy = "give the same settings, another -o, or --force to begin anew"
            refuse_changes(self.settings(), settings, self.storage.root, remedy)
        elif others := [name for name in self.storage.names() if name != LOCK_NAME]:
            raise self._strange(others[0])
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
        refusal = f"{root}: another run is writing here; wait for it, or give another -o"
        with locked(Path(root) / LOCK_NAME, refusal):
            yield

    def numbers(self) -> list[int]:
        """Parts that are whole, ascending."""
        found = (PART_NAME.fullmatch(name) for name in self.storage.names())
        return sorted(int(number[1]) for number in found if number)

    @contextlib.contextmanager
    def write(self, number: int, schema: "pa.Schema") -> Iterator[tuple["pq.ParquetWriter", PartReport]]:
        """A writer for a part, and the report to fill; the part appears when the body ends well."""
        import pyarrow.parquet as pq

        report = PartReport()
        # a dictionary of paths and layers is worth it, one of vectors is not
        with (
            self.storage.writing(_name(number)) as file,
            pq.ParquetWriter(file, schema, use_dictionary=["path", "layer"]) as writer,
        ):
            yield writer, report
            writer.add_key_value_metadata({REPORT_KEY: json.dumps(asdict(report)).encode()})

    def report(self, number: int) -> PartReport:
        """What a part says of its inputs.

        Raises:
            ValueError: the file is broken (not by a killed run: that leaves none).
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.storage.open(_name(number)) as file:
                said = json.loads((pq.read_metadata(file).metadata or {})[REPORT_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            path = self.storage.path(_name(number))
            raise ValueError(f"{path}: not a whole part; remove it and run the same command again") from error
        # parts of an older run have no segment
        said["errors"] = [(name, reason, *(segment or [0])) for name, reason, *segment in said["errors"]]
        return PartReport(**said)

    def total(self) -> PartReport:
        """All parts together."""
        total = PartReport()
        for number in self.numbers():
            total.add(self.report(number))
        return total

    def tables(self) -> Iterator["pa.Table"]:
        """The rows of all parts, in order, a row group at a time."""
        import pyarrow.parquet as pq

        for number in self.numbers():
            with (
                self.storage.open(_name(number)) as stream,
                pq.ParquetFile(stream) as file,
            ):
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group)

    def remove(self) -> None:
        """What runs wrote, the settings first: what is left half-way is no run. The folder too, if nothing is left."""
        for name in (SETTINGS_NAME, *filter(_is_ours, self.storage.names())):
            self.storage.remove(name)
        self.storage.remove_if_empty()

    def refuse_others(self) -> None:
        """ValueError if anything lies here that no run wrote."""
        for name in self.storage.names():
            if not _is_ours(name):
                raise self._strange(name)

    def _strange(self, name: str) -> ValueError:
        return ValueError(f"{self.storage.root}: a folder with other things in it, such as {name}; give another -o")


def _is_ours(name: str) -> bool:
    return name in (SETTINGS_NAME, LOCK_NAME) or bool(PART_NAME.fullmatch(name)) or is_scratch(name)


def _name(number: int) -> str:
    return f"part-{number:07d}.parquet"

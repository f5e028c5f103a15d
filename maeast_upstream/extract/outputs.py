"""Outputs of a run: one file, a folder of parquet parts, or a folder with a file per clip."""

import contextlib
import functools
import itertools
import json
import os
import sys
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.data.embeddings import METADATA_KEY
from maeast_upstream.data.relative_names import ROOT_KEY
from maeast_upstream.display import as_text
from maeast_upstream.extract.annotation_files import (
    ENDINGS,
    Found,
    annotation_names,
    by_recording,
    write_annotations,
)
from maeast_upstream.extract.arrow_columns import column
from maeast_upstream.extract.joins import join_csv, join_npz, join_parquet, join_reduced
from maeast_upstream.extract.npy_names import npy_name
from maeast_upstream.extract.part_store import SETTINGS_NAME, PartReport, PartStore
from maeast_upstream.extract.table import (
    ROW_GROUP_BYTES,
    STATE_KEY,
    Embedded,
    EmbeddingSpec,
    make_schema,
    make_table,
    row_blocks,
)
from maeast_upstream.storage import delimited
from maeast_upstream.storage.folder import Storage

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("parquet", "npz", "npy")
"""Of embeddings."""
JOINS = {"parquet": join_parquet, "npz": join_npz, "csv": join_csv}
"""How parts become one file of a format; the other formats are those of folders."""
MAX_NAME_BYTES = 255 - len(".warnings.tsv")
"""Longest name of an output: file systems allow 255 bytes, and the list of warnings has a suffix."""
INDEX_NAME = "index.parquet"
"""Name of the table of a folder of npy files, which lists the file of each clip."""


@dataclass(frozen=True)
class Output:
    """A file or folder of a format."""

    parent: Storage
    name: str
    """Name in the parent folder."""
    format: str
    is_folder: bool
    merge: bool = False
    """Whether adjacent windows of a label become one in a folder of annotations."""

    @property
    def address(self) -> str:
        """Its path as text, for messages."""
        return self.parent.shown(self.name)

    @property
    def store(self) -> PartStore:
        """The store of the parts: the folder itself, a folder in it (npy), or one beside the file."""
        ending = ".parts" if not self.is_folder else "" if self.format == "parquet" else "/_parts"
        return PartStore(self.parent.folder(self.name + ending))

    @property
    def error_list(self) -> str:
        """Name of the list of inputs that could not be read."""
        return f"{self.name}.errors.tsv"

    @property
    def warning_list(self) -> str:
        """Name of the list of what was noticed about inputs that were read."""
        return f"{self.name}.warnings.tsv"

    def whole(self) -> bool:
        """Whether the file exists; always False for a folder, whose parts tell."""
        return not self.is_folder and self.parent.exists(self.name)

    def remove(self) -> None:
        """Remove everything that an earlier run made, and nothing else.

        Raises:
            ValueError: There are other files among the parts, or a run is writing them; nothing is removed.
        """
        store = self.store
        store.refuse_foreign_files()
        with store.locked():
            for name in (self.error_list, self.warning_list, *self._files(store)):
                self.parent.remove(name)
            store.remove()

    def _files(self, store: PartStore) -> Iterator[str]:
        """Yield the names of the files that were made from the parts."""
        if not self.is_folder:
            yield self.name
        if self.format == "npy":
            yield f"{self.name}/{INDEX_NAME}"
            for table in store.tables():
                for name in table["file"].to_pylist():
                    if ".." not in name.split("/"):  # as we write none, but another program's part may have it
                        yield f"{self.name}/{name}"
        if self.format in ENDINGS:
            paths = {path for table in store.tables() for path in table["path"].to_pylist()}
            for form in ENDINGS:  # the run that is replaced may have written the other form
                yield from (f"{self.name}/{name}" for name in annotation_names(form, paths))

    def refuse_as_input(self, inputs: Sequence[str]) -> None:
        """Raise ValueError if one of the inputs is the output, or a file that is written or removed with it."""
        names = (self.name, self.error_list, self.warning_list)
        ours = {os.path.realpath(self.parent.path(name)) if self.parent.is_local else name for name in names}
        for item in inputs:
            if os.path.realpath(item) in ours and (not self.is_folder or os.path.isdir(item)):  # noqa: PTH112
                raise ValueError(f"{as_text(item)}: an input, and the output of this run; give another -o")

    def recorded(self) -> dict[str, Any]:
        """Return the settings of the run that made the existing output; empty if there is none."""
        if self.whole():
            settings: dict[str, Any] = self._metadata_of_file().get("settings", {})
            return settings
        return self.store.settings() if self.store.begun else {}

    def refuse_unknown(self) -> None:
        """Raise ValueError if the file exists and does not tell how it was made."""
        if self.whole() and not self.recorded():
            raise ValueError(f"{self.address} exists already; give --force to replace it, or another name")

    def recorded_state(self) -> str | None:
        """Return the state of the inputs that the existing file was made from; None if it does not tell."""
        return self._metadata_of_file().get(STATE_KEY)

    def time_ns(self) -> int:
        """Return when the existing file was written, in ns since 1970; infinitely late for a remote one."""
        return os.stat(self.parent.path(self.name)).st_mtime_ns if self.parent.is_local else sys.maxsize  # noqa: PTH116

    def _metadata_of_file(self) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.parent.open(self.name) as file:
                if self.format == "npz":
                    with np.load(file) as arrays:
                        text = str(arrays[METADATA_KEY])
                else:
                    text = (pq.read_schema(file).metadata or {})[METADATA_KEY.encode()].decode()
            metadata = json.loads(text)
        except (
            pa.ArrowException,
            OSError,
            EOFError,
            KeyError,
            TypeError,  # a single array instead of an npz file
            ValueError,
            zipfile.BadZipFile,
        ):
            return {}
        return metadata if isinstance(metadata, dict) and isinstance(metadata.get("settings"), dict) else {}

    def table_builder(self, spec: EmbeddingSpec, width: int, metadata: dict[str, str]) -> "TableBuilder":
        """Return the builder of a part's rows."""
        schema = make_schema(spec, width, metadata)
        if self.format == "npy":
            return NpyTableBuilder(schema, spec, self.parent.folder(self.name), self.store.storage)
        return TableBuilder(schema, spec)

    def finish(self, schema: "pa.Schema", spec: EmbeddingSpec | None = None) -> None:
        """Join the parts into the file and remove them; a folder keeps them, and one of npy files gets an index.

        Args:
            schema: Of the parts, with the metadata of the file.
            spec: The embeddings of the file, which may have fewer dimensions than those of the parts;
                None for rows that are not embeddings.
        """
        if self.format == "npy":
            with self._writing(f"{self.name}/{INDEX_NAME}") as file:
                join_parquet(self.store, schema, file)
        if self.format in ENDINGS:
            root, folder = str(self.store.settings().get(ROOT_KEY) or ""), self.parent.folder(self.name)
            recordings = by_recording(self._found)
            write_annotations(folder, recordings, self.format, root, self.store.storage, self.merge)
        if self.is_folder:
            return
        with self._writing(self.name) as file:
            if spec is None or spec.dims is None:
                JOINS[self.format](self.store, schema, file)
            else:
                join_reduced(self.store, schema, file, spec)
        self.store.remove()

    def _found(self) -> Iterator[Found]:
        """Yield the rows of the parts as annotations."""
        for table in self.store.tables():
            yield from map(Found, *(table[name].to_pylist() for name in Found._fields))

    def _writing(self, name: str) -> contextlib.AbstractContextManager[IO[Any]]:
        """Return the context of a file that is among the parts until it is whole; a kill leaves it to the next run."""
        scratch = self.store.storage
        return self.parent.writing(name, scratch if scratch.exists() else None)

    def write_lists(self, report: PartReport) -> None:
        """Write the lists of inputs that could not be read and of notes about the others; remove an empty one."""
        lists: list[tuple[str, tuple[str, ...], Sequence[tuple[object, ...]]]] = [
            (self.error_list, ("path", "reason", "segment"), report.errors),
            (self.warning_list, ("path", "segment", "note"), report.warnings),
        ]
        for name, columns, rows in lists:
            if not rows:
                self.parent.remove(name)
                continue
            with self._writing(name) as file:
                file.writelines(line.encode() for line in delimited.lines([columns, *rows], "\t"))


class TableBuilder:
    """Makes the rows of a parquet part, with their vectors."""

    def __init__(self, schema: "pa.Schema", spec: EmbeddingSpec) -> None:
        self.schema, self.spec = schema, spec

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """Return the rows of clips."""
        return make_table(clips, self.spec, self.schema)

    def tables(self, clips: Sequence[Embedded]) -> "Iterator[pa.Table]":
        """Yield the rows of clips, those of a long clip in tables of bounded memory."""
        for is_long, group in itertools.groupby(clips, lambda clip: clip.vectors.nbytes > ROW_GROUP_BYTES):
            if is_long:
                for clip in group:
                    yield from self._tables_of_rows(clip)
            else:
                yield self.table(list(group))

    def _tables_of_rows(self, clip: Embedded) -> "Iterator[pa.Table]":
        done = 0
        for rows in row_blocks(clip.vectors):
            readout, first = divmod(done, clip.vectors.shape[1])
            part = replace(clip, vectors=rows, times_ms=clip.times_ms[first : first + rows.shape[1]])
            yield make_table(
                [part], replace(self.spec, readouts=self.spec.readouts[readout : readout + 1]), self.schema
            )
            done += rows.shape[1]


class NpyTableBuilder(TableBuilder):
    """Writes a file NAME.npy for each clip, (layers, E) or (layers, steps, E), and makes rows that list the files."""

    def __init__(self, schema: "pa.Schema", spec: EmbeddingSpec, storage: Storage, scratch: Storage) -> None:
        """Write to a folder.

        Args:
            schema: Its metadata is that of the index.
            spec: The embeddings of a clip.
            storage: The folder.
            scratch: A folder in it for files that are not whole yet.
        """
        import pyarrow as pa

        self.spec, self.storage, self.scratch = spec, storage, scratch
        columns = [("path", pa.string()), ("segment", pa.int64()), ("start_ms", pa.float64()), ("end_ms", pa.float64())]
        self.schema = pa.schema([*columns, ("file", pa.string())], metadata=schema.metadata)

    @functools.cached_property
    def any_case(self) -> bool:
        """Whether the file system takes names that differ only in case for one."""
        return self.scratch.exists(SETTINGS_NAME.upper())

    def tables(self, clips: Sequence[Embedded]) -> "Iterator[pa.Table]":
        """Yield the one table of clips."""
        yield self.table(clips)

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """Write the files of clips, then return their rows, so that all files of a complete part exist."""
        import pyarrow as pa

        rows = []
        for clip in clips:
            name = npy_name(clip, self.any_case)
            self.storage.make(name.rpartition("/")[0])
            shape = clip.vectors[:, 0].shape if self.spec.kind == "scene" else clip.vectors.shape
            kind = np.dtype(self.spec.vectors)
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
            with self.storage.writing(name, self.scratch, durable=False) as file:
                np.lib.format.write_array_header_1_0(file, header)
                # np.save to a file on a full disk raises an error that does not say so
                for block in row_blocks(clip.vectors):
                    file.write(np.ascontiguousarray(block, kind).data.cast("B"))
            rows.append([clip.path, clip.segment, clip.start_ms, clip.end_ms, name])
        columns = zip(*rows, strict=True)
        return pa.table(
            [column(values, field.type) for values, field in zip(columns, self.schema, strict=True)], schema=self.schema
        )


def output_at(address: str, format: str | None = None, formats: Collection[str] = FORMATS) -> Output:
    """Return the output of a name: OUT.parquet or another file, a folder of parquet parts, or one with a file per clip.

    Args:
        address: A local path, or an address that fsspec knows.
        format: One of ``formats``; None for the one of the suffix, or for parquet parts in a folder.
        formats: The formats that there are.

    Raises:
        ValueError: The name has another suffix or does not fit the format, its parent folder does not exist, or a file
            or folder of another format has that name.
    """
    stem = address.rstrip("/")
    parent, _, name = stem.rpartition("/")
    ending = name.rpartition(".")[2] if "." in name else ""
    of_files = [known for known in formats if known in JOINS]
    if not name.strip(".") or (ending and ending not in of_files):
        endings = " or ".join(f".{known}" for known in of_files)
        raise ValueError(f"{address}: give a name that ends in {endings}, or a folder (a name without a dot)")
    if ending and format not in (None, ending):
        raise ValueError(f"{address}: format {format} goes with {f'a .{format}' if format in JOINS else 'a folder'}")
    if not ending and format in JOINS and format != "parquet":
        raise ValueError(f"{address}: format {format} goes with a name that ends in .{format}")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise ValueError(f"{as_text(address)}: a name of more than {MAX_NAME_BYTES} bytes; give a shorter one")
    storage = Storage(parent or ("/" if stem.startswith("/") else "."))
    if storage.is_local and not storage.exists():
        raise ValueError(f"{parent}: no such folder to write {name} to")
    if storage.is_local and storage.exists(name) and storage.files.isdir(storage.path(name)) == bool(ending):
        raise ValueError(f"{address}: a {'folder' if ending else 'file'} has this name; give another")
    output = Output(storage, name, ending or format or "parquet", is_folder=not ending)
    parts = output.store.storage
    if parts.is_local and parts.root != storage.path(name) and os.path.islink(parts.root):  # noqa: PTH114
        raise ValueError(f"{parts.shown()}: a link, where the parts of the table would be; remove it")
    elsewhere = replace(output, format="npy" if output.format == "parquet" else "parquet").store
    if output.is_folder and elsewhere.begun:
        other = elsewhere.settings().get("format") or ("npy" if output.format == "parquet" else "parquet")
        raise ValueError(
            f"{address}: a folder of {other} files, not of {output.format}: give --format {other}, or another -o"
        )
    return output

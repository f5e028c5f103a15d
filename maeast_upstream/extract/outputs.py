"""Outputs of a run: one parquet or npz file, a folder of parquet parts, or one npy file per clip."""

import contextlib
import functools
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.data.embeddings import METADATA_KEY
from maeast_upstream.display import as_text
from maeast_upstream.extract.npy_names import npy_name
from maeast_upstream.extract.part_store import SETTINGS_NAME, PartReport, PartStore
from maeast_upstream.extract.table import STATE_KEY, Embedded, EmbeddingSpec, make_schema, make_table
from maeast_upstream.storage import delimited
from maeast_upstream.storage.folder import Storage

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("parquet", "npz", "npy")
MAX_NAME_BYTES = 255 - len(".warnings.tsv")
"""Longest name of an output: file systems allow 255 bytes, and the list of warnings has a suffix."""
INDEX_NAME = "index.parquet"
"""Name of the table of a folder of npy files, which lists the file of each clip."""


@dataclass(frozen=True)
class Output:
    """A file or folder of one of `FORMATS`."""

    parent: Storage
    name: str
    """Name in the parent folder."""
    format: str
    is_folder: bool

    @property
    def address(self) -> str:
        """Its path as text, for messages."""
        return self.parent.shown(self.name)

    @property
    def store(self) -> PartStore:
        """The store of the parts: the folder itself, a folder in it (npy), or one beside the file."""
        ending = "/_parts" if self.format == "npy" else "" if self.is_folder else ".parts"
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

    def finish(self, schema: "pa.Schema") -> None:
        """Join the parts into the file and remove them; a folder keeps them, and one of npy files gets an index."""
        if self.format == "npy":
            with self._writing(f"{self.name}/{INDEX_NAME}") as file:
                join_parquet(self.store, schema, file)
        if self.is_folder:
            return
        join = join_npz if self.format == "npz" else join_parquet
        with self._writing(self.name) as file:
            join(self.store, schema, file)
        self.store.remove()

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

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """Write the files of clips, then return their rows, so that all files of a complete part exist."""
        import pyarrow as pa

        rows = []
        for clip in clips:
            name = npy_name(clip, self.any_case)
            self.storage.make(name.rpartition("/")[0])
            array = clip.vectors[:, 0] if self.spec.kind == "scene" else clip.vectors
            content = io.BytesIO()  # np.save to a file on a full disk raises an error that does not say so
            np.save(content, array.astype(np.dtype(self.spec.vectors), copy=False), allow_pickle=False)
            with self.storage.writing(name, self.scratch, durable=False) as file:
                file.write(content.getbuffer())
            rows.append([clip.path, clip.segment, clip.start_ms, clip.end_ms, name])
        return pa.table([*map(list, zip(*rows, strict=True))], schema=self.schema)


def output_at(address: str, format: str | None = None) -> Output:
    """Return the output of a name: OUT.parquet, OUT.npz, or a folder of parquet parts or of npy files.

    Args:
        address: A local path, or an address that fsspec knows.
        format: One of `FORMATS`; None for the one of the suffix, or for parquet parts in a folder.

    Raises:
        ValueError: The name has another suffix or does not fit the format, its parent folder does not exist, or a file
            or folder of another format has that name.
    """
    stem = address.rstrip("/")
    parent, _, name = stem.rpartition("/")
    ending = name.rpartition(".")[2] if "." in name else ""
    if not name.strip(".") or (ending and ending not in ("parquet", "npz")):
        raise ValueError(f"{address}: give a name that ends in .parquet or .npz, or a folder (a name without a dot)")
    if ending and format not in (None, ending):
        raise ValueError(f"{address}: format {format} goes with {'a folder' if format == 'npy' else f'a .{format}'}")
    if not ending and format == "npz":
        raise ValueError(f"{address}: format npz goes with a name that ends in .npz")
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
    other = "parquet" if output.format == "npy" else "npy"
    if output.is_folder and replace(output, format=other).store.begun:
        raise ValueError(
            f"{address}: a folder of {other} files, not of {output.format}: give --format {other}, or another -o"
        )
    return output


def join_parquet(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """Write all rows to one parquet file, one row group at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema, use_dictionary=["path", "layer"]) as writer:
        for table in store.tables():
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def join_npz(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """Write one array per column to an npz file without pickles, piece by piece, so that memory stays bounded."""
    rows = sum(store.report(number).rows for number in store.numbers())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column in schema.names:
            arrays = lambda column=column: (as_array(table, column) for table in store.tables())  # noqa: E731
            _write_array(archive, column, rows, arrays)
        metadata = (schema.metadata or {}).get(METADATA_KEY.encode(), b"{}").decode()
        _write_array(archive, METADATA_KEY, None, lambda: iter([np.array(metadata)]))


def as_array(table: "pa.Table", column: str) -> np.ndarray:
    """Return a column as (rows,) numbers or text, or as (rows, E) vectors."""
    values = table[column].combine_chunks()
    if column == "vector":
        flat: np.ndarray = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(table), -1)
    array: np.ndarray = values.to_numpy(zero_copy_only=False)
    return array.astype(str) if array.dtype == object else array


def _write_array(
    archive: zipfile.ZipFile, name: str, rows: int | None, pieces: Callable[[], Iterator[np.ndarray]]
) -> None:
    """Write a member NAME.npy of ``rows`` rows, or of a single value for None.

    The pieces of text are read twice, first for the longest one.
    """
    first = next(pieces())
    dtype = first.dtype
    if dtype.kind == "U":
        dtype = max((piece.dtype for piece in pieces()), key=lambda dtype: dtype.itemsize)
    shape = () if rows is None else (rows, *first.shape[1:])
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(member, header)
        for piece in pieces():
            member.write(np.ascontiguousarray(piece, dtype=dtype).tobytes())

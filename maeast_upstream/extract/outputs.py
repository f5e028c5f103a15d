"""Where a run's table goes: one parquet or npz file, a folder of parquet parts, or one npy file a clip."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from maeast_upstream.data.inputs import as_text
from maeast_upstream.extract.part_store import PartStore
from maeast_upstream.extract.table import METADATA_KEY, Embedded, EmbeddingSpec, make_schema, make_table
from maeast_upstream.storage.folder import Storage

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("parquet", "npz", "npy")
LONGEST_STEP = 180
"""Bytes of a name: file systems take 255, and an ending follows, also while the file is written."""
INDEX_NAME = "index.parquet"
"""Of a folder of npy files: which clip lies where."""


@dataclass(frozen=True)
class Output:
    """A destination: ``name`` in ``place``."""

    place: Storage
    name: str
    format: str
    """One of FORMATS."""
    is_folder: bool

    @property
    def address(self) -> str:
        """For messages."""
        return as_text(self.place.path(self.name))

    @property
    def store(self) -> PartStore:
        """The parts: in the folder itself, in one below it (npy), or beside the file while it is made."""
        ending = "/_parts" if self.format == "npy" else "" if self.is_folder else ".parts"
        return PartStore(Storage(self.place.address(self.name + ending)))

    @property
    def error_list(self) -> str:
        """The name of the list of inputs that could not be read."""
        return f"{self.name}.errors.tsv"

    def whole(self) -> bool:
        """Whether the file is there (a folder never says so: its parts do)."""
        return not self.is_folder and self.place.exists(self.name)

    def remove(self) -> None:
        """All that an earlier run made, and nothing else.

        Raises:
            ValueError: before anything is removed: other things lie among the parts, or a run is writing them.
        """
        store = self.store
        store.refuse_others()
        with store.locked():
            for name in (self.error_list, *self._files(store)):
                self.place.remove(name)
            store.remove()

    def _files(self, store: PartStore) -> Iterator[str]:
        """What was made of the parts."""
        if not self.is_folder:
            yield self.name
        if self.format == "npy":
            yield f"{self.name}/{INDEX_NAME}"
            for table in store.tables():
                yield from (f"{self.name}/{name}" for name in table["file"].to_pylist())

    def recorded(self) -> dict[str, Any]:
        """The settings that what lies here was begun with; empty if there is nothing of ours."""
        if self.whole():
            return self._made_with()
        return self.store.settings() if self.store.begun else {}

    def _made_with(self) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self.place.open(self.name) as file:
                if self.format == "npz":
                    with np.load(file) as arrays:
                        text = str(arrays[METADATA_KEY])
                else:
                    text = (pq.read_schema(file).metadata or {})[METADATA_KEY.encode()].decode()
            settings: dict[str, Any] = json.loads(text)["settings"]
        except (
            pa.ArrowException,
            OSError,
            EOFError,
            KeyError,
            TypeError,  # numpy reads one array under any name
            ValueError,
            zipfile.BadZipFile,
        ):
            return {}
        return settings

    def sink(self, wanted: EmbeddingSpec, width: int, metadata: dict[str, str]) -> "Sink":
        """What makes a part's rows of clips."""
        schema = make_schema(wanted, width, metadata)
        if self.format == "npy":
            return NpyFiles(schema, wanted, Storage(self.place.address(self.name)))
        return Sink(schema, wanted)

    def finish(self, schema: "pa.Schema") -> None:
        """Join the parts into the file and remove them; a folder stays as it is, one of npy files gets an index."""
        if self.format == "npy":
            with self.place.writing(f"{self.name}/{INDEX_NAME}") as file:
                join_parquet(self.store, schema, file)
        if self.is_folder:
            return
        join = join_npz if self.format == "npz" else join_parquet
        with self.place.writing(self.name) as file:
            join(self.store, schema, file)
        self.store.remove()

    def write_errors(self, errors: Sequence[tuple[str, str, int]]) -> None:
        """The list of what could not be read; none if there is nothing to list."""
        self.place.remove(self.error_list)
        if errors:
            with self.place.writing(self.error_list) as file:
                for row in [("path", "reason", "segment"), *errors]:
                    text = io.StringIO(newline="")
                    csv.writer(text, delimiter="\t").writerow(row)  # with "\n" at the ends it would not quote a "\r"
                    file.write(text.getvalue().removesuffix("\r\n").encode() + b"\n")


class Sink:
    """Rows of a parquet part, vectors and all."""

    def __init__(self, schema: "pa.Schema", wanted: EmbeddingSpec) -> None:
        self.schema, self.wanted = schema, wanted

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """The rows of some clips."""
        return make_table(clips, self.wanted, self.schema)


class NpyFiles(Sink):
    """A file NAME.npy for each clip, (layers, E) or (layers, steps, E); the part's rows tell which clip lies where."""

    def __init__(self, schema: "pa.Schema", wanted: EmbeddingSpec, storage: Storage) -> None:
        import pyarrow as pa

        self.wanted, self.storage = wanted, storage
        columns = [
            ("path", pa.string()),
            ("segment", pa.int64()),
            ("start_ms", pa.float64()),
            ("end_ms", pa.float64()),
        ]
        self.schema = pa.schema([*columns, ("file", pa.string())], metadata=schema.metadata)

    def table(self, clips: Sequence[Embedded]) -> "pa.Table":
        """Write the files, then tell of them: a part that is there has all of its files."""
        import pyarrow as pa

        rows = []
        for clip in clips:
            name = npy_name(clip)
            self.storage.make(name.rpartition("/")[0])
            array = clip.vectors[:, 0] if self.wanted.kind == "scene" else clip.vectors
            with self.storage.writing(name) as file:
                np.save(
                    file,
                    array.astype(np.dtype(self.wanted.vectors), copy=False),
                    allow_pickle=False,
                )
            rows.append([clip.path, clip.segment, clip.start_ms, clip.end_ms, name])
        return pa.table([*map(list, zip(*rows, strict=True))], schema=self.schema)


def npy_name(clip: Embedded) -> str:
    """``sub/clip.wav.npy`` below the output folder, whatever the clip's path begins with; ``..`` becomes ``__``.

    A row of a manifest is ``clip.wav.7.npy``, counted as there, or ``clip.wav.7.1500-2750.npy`` if it is a stretch, in
    ms: the rows 7 of two manifests may be two stretches.
    """
    steps = [step for step in clip.path.replace("://", "/").split("/") if step not in ("", ".")]
    steps = ["__" if step == ".." else step for step in steps]
    stretch = f".{clip.start_ms:.10g}-{clip.end_ms:.10g}" if clip.stretch else ""
    row = f".{clip.segment}" if clip.segment or stretch else ""
    return "/".join(map(_shortened, steps)) + f"{row}{stretch}.npy"


def _shortened(step: str) -> str:
    """A part of a path that leaves room for an ending; shortened, it stays its own."""
    if len(step.encode()) <= LONGEST_STEP:
        return step
    digest = hashlib.sha256(step.encode()).hexdigest()[:16]
    return f"{step.encode()[: LONGEST_STEP - 17].decode(errors='ignore')}~{digest}"


def output_at(address: str, format: str | None = None) -> Output:
    """OUT.parquet, OUT.npz, or a folder (of parquet parts, or of npy files if ``format`` says so).

    Raises:
        ValueError: another ending, a format that does not go with the name, no such parent folder, or something of
            another kind or format has the name.
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
    place = Storage(parent or ("/" if stem.startswith("/") else "."))
    if place.is_local and not place.exists():
        raise ValueError(f"{parent}: no such folder to write {name} to")
    if place.is_local and place.exists(name) and place.files.isdir(place.path(name)) == bool(ending):
        raise ValueError(f"{address}: a {'folder' if ending else 'file'} has this name; give another")
    output = Output(place, name, ending or format or "parquet", is_folder=not ending)
    other = "parquet" if output.format == "npy" else "npy"
    if output.is_folder and replace(output, format=other).store.begun:
        raise ValueError(
            f"{address}: a folder of {other}, not of {output.format}: give --format {other}, or another -o"
        )
    return output


def join_parquet(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """All rows in one parquet file, a row group at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema, use_dictionary=["path", "layer"]) as writer:
        for table in store.tables():
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def join_npz(store: PartStore, schema: "pa.Schema", file: IO[Any]) -> None:
    """One array a column (`numpy.load` reads it without pickles), piece by piece: vectors are never all in memory."""
    rows = sum(store.report(number).rows for number in store.numbers())
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column in schema.names:
            arrays = lambda column=column: (as_array(table, column) for table in store.tables())  # noqa: E731
            _write_array(archive, column, rows, arrays)
        metadata = (schema.metadata or {}).get(METADATA_KEY.encode(), b"{}").decode()
        _write_array(archive, METADATA_KEY, None, lambda: iter([np.array(metadata)]))


def as_array(table: "pa.Table", column: str) -> np.ndarray:
    """A column as (rows,) numbers or text, or (rows, E) vectors."""
    values = table[column].combine_chunks()
    if column == "vector":
        flat: np.ndarray = values.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(table), -1)
    array: np.ndarray = values.to_numpy(zero_copy_only=False)
    return array.astype(str) if array.dtype == object else array


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    rows: int | None,
    pieces: Callable[[], Iterator[np.ndarray]],
) -> None:
    """One member NAME.npy of ``rows`` rows (None: a single value); text is gone through twice, for its longest."""
    first = next(pieces())
    kind = first.dtype
    if kind.kind == "U":
        kind = max((piece.dtype for piece in pieces()), key=lambda dtype: dtype.itemsize)
    shape = () if rows is None else (rows, *first.shape[1:])
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {
            "descr": np.lib.format.dtype_to_descr(kind),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_2_0(member, header)
        for piece in pieces():
            member.write(np.ascontiguousarray(piece, dtype=kind).tobytes())

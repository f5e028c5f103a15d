"""``maeast embed``: audio files in, a table of embeddings out."""

import csv
import json
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from tqdm import tqdm

from maeast_upstream.audio import AudioError, find_audio, read_audio
from maeast_upstream.command import Parser, add_model_options, add_readout_options, readout_from
from maeast_upstream.encoder import Encoder, load_model
from maeast_upstream.files import refuse_to_overwrite, replacing
from maeast_upstream.frontend import SAMPLE_RATE
from maeast_upstream.readout import Readout, combine_layers
from maeast_upstream.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

DONE, NOTHING_DONE, DONE_IN_PART = 0, 1, 3
READ_AHEAD_SECONDS = 600.0
"""Audio that is decoded ahead of the model, and one file more: what bounds memory."""
BATCH_SECONDS = 120.0


@dataclass
class Report:
    """What a run did."""

    files: int = 0
    """Files that were embedded."""
    rows: int = 0
    """Rows written."""
    dimensions: int = 0
    """Length of a vector."""
    errors: list[tuple[str, str]] | None = None
    """Files that could not be read, each with its reason."""


def main(argv: Sequence[str]) -> int:
    """Embed audio files or folders into a parquet table."""
    parser = Parser(prog="maeast embed", description=main.__doc__)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", type=Path, help="audio files, or folders of them")
    parser.add_argument("-o", "--out", required=True, type=Path, help="OUT.parquet")
    parser.add_argument(
        "--kind",
        choices=("scene", "frames"),
        default="scene",
        help="one row a file, or a time step",
    )
    add_model_options(parser)
    add_readout_options(parser)
    parser.add_argument(
        "--batch-seconds",
        type=float,
        default=BATCH_SECONDS,
        help="audio that goes to the model at once",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    args = parser.parse_args(argv)
    if args.out.suffix != ".parquet":
        raise ValueError(f"{args.out}: the table is parquet; give a name that ends in .parquet")
    refuse_to_overwrite(args.out, args.force)
    files = find_audio(args.inputs)
    encoder = load_model(args.checkpoint, args.device, args.precision)
    readout = readout_from(args, encoder.config.readout)
    report = embed_files(
        files,
        args.out,
        encoder,
        readout,
        kind=args.kind,
        batch_seconds=args.batch_seconds,
        checkpoint=args.checkpoint or "bundled",
    )
    errors = report.errors or []
    for path, reason in errors[:5]:
        print(f"left out: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
    print(f"{report.files} files, {report.rows} rows of {report.dimensions} dimensions: {args.out}")
    if errors:
        print(f"{len(errors)} files left out, listed in {error_list(args.out)}", file=sys.stderr)
    return DONE_IN_PART if errors else DONE


def embed_files(
    files: Sequence[Path],
    out: Path,
    encoder: Encoder,
    readout: Readout | None = None,
    *,
    kind: str = "scene",
    batch_seconds: float = BATCH_SECONDS,
    checkpoint: str = "",
) -> Report:
    """Embed files into a parquet table, in their order.

    Args:
        files: what to read; a file that cannot be read is listed in ``OUT.errors.tsv`` and left out.
        out: the table; it appears whole or not at all. "scene": path, duration_s, vector. "frames": path, time_ms
            (the centre of the time step), vector. Vectors are fixed-size lists of float32.
        encoder: the model.
        readout: None for the checkpoint's own.
        kind: "scene" or "frames".
        batch_seconds: audio that goes to the model at once.
        checkpoint: noted in the table's metadata.

    Raises:
        ValueError: not one file could be read, or a setting is not one of the model's.
    """
    import pyarrow.parquet as pq

    if kind not in ("scene", "frames") or not 0 < batch_seconds < math.inf or not files:
        raise ValueError(
            "expected at least one file, kind scene or frames and batch_seconds above 0, "
            f"got {len(files)} files, {kind!r} and {batch_seconds}"
        )
    readout = readout or encoder.config.readout
    report = Report(errors=[])
    metadata = {
        "maeast": json.dumps(
            {
                "version": __version__,
                "checkpoint": checkpoint,
                "kind": kind,
                "readout": asdict(readout),
                "config": encoder.config.to_dict(),
            }
        )
    }
    errors = report.errors if report.errors is not None else []
    with replacing(out) as part:
        writer = None
        try:
            for batch in _batches(_read_all(files, errors), batch_seconds):
                table = (
                    _scene_table(batch, encoder, readout) if kind == "scene" else _frame_table(batch, encoder, readout)
                )
                table = table.replace_schema_metadata(metadata)
                writer = writer or pq.ParquetWriter(part, table.schema)
                writer.write_table(table)
                report.files += len(batch)
                report.rows += len(table)
                report.dimensions = table.schema.field("vector").type.list_size
        finally:
            if writer is not None:
                writer.close()
        _write_errors(error_list(out), errors)
        if writer is None:
            raise ValueError(f"not one of {len(files)} files could be read; the first: {errors[0][1]}")
    return report


def error_list(out: Path) -> Path:
    """Where the files are listed that could not be read."""
    return out.with_name(out.name + ".errors.tsv")


Clip = tuple[str, np.ndarray]


class _Ahead:
    """Decodes files in a thread, in their order, at most `READ_AHEAD_SECONDS` and one file ahead of its reader."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._changed = threading.Condition()
        self._read: deque[np.ndarray | Exception] = deque()
        self._samples = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._decode, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def next(self) -> np.ndarray | Exception:
        """The next file's samples, or why there are none."""
        with self._changed:
            self._changed.wait_for(lambda: self._read)
            result = self._read.popleft()
            self._samples -= len(result) if isinstance(result, np.ndarray) else 0
            self._changed.notify_all()
        return result

    def _decode(self) -> None:
        for path in self._files:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._samples < READ_AHEAD_SECONDS * SAMPLE_RATE)
                if self._stopped:
                    return
            result: np.ndarray | Exception
            try:
                result = read_audio(path)
            except Exception as error:  # the reader of the queue tells what is a bad file and what a fault
                result = error
            with self._changed:
                self._read.append(result)
                self._samples += len(result) if isinstance(result, np.ndarray) else 0
                self._changed.notify_all()


def _read_all(files: Sequence[Path], errors: list[tuple[str, str]]) -> Iterator[Clip]:
    """Clips in the order of the files; those that cannot be read go to ``errors``."""
    with _Ahead(files) as ahead:
        for path in tqdm(files, unit="clip", disable=not sys.stderr.isatty()):
            result = ahead.next()
            name = os.fsencode(path).decode("utf-8", "replace")  # names are bytes to the system, text to parquet
            if isinstance(result, AudioError):
                errors.append((name, os.fsencode(str(result)).decode("utf-8", "replace")))
            elif isinstance(result, Exception):
                raise result
            else:
                yield name, result


def _batches(clips: Iterator[Clip], batch_seconds: float) -> Iterator[list[Clip]]:
    batch: list[Clip] = []
    samples = 0
    for clip in clips:
        if batch and samples + len(clip[1]) > batch_seconds * SAMPLE_RATE:
            yield batch
            batch, samples = [], 0
        batch.append(clip)
        samples += len(clip[1])
    if batch:
        yield batch


def _vectors(values: np.ndarray) -> "pa.FixedSizeListArray":
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _scene_table(batch: list[Clip], encoder: Encoder, readout: Readout) -> "pa.Table":
    import pyarrow as pa

    vectors = encoder.embed([torch.from_numpy(samples) for _, samples in batch], readout=readout)
    columns: dict[str, Any] = {
        "path": [path for path, _ in batch],
        "duration_s": [len(samples) / SAMPLE_RATE for _, samples in batch],
        "vector": _vectors(vectors.cpu().numpy()),
    }
    return pa.table(columns)


def _frame_table(batch: list[Clip], encoder: Encoder, readout: Readout) -> "pa.Table":
    import pyarrow as pa

    waveforms = [torch.from_numpy(samples) for _, samples in batch]
    encoded = encoder.encode(
        waveforms, layers=readout.layers(encoder.num_layers), mel=readout.mel, hop_ms=readout.hop_ms
    )
    states = combine_layers(encoded.hidden_states, readout.layer).cpu()
    lengths = encoded.lengths.tolist()
    columns: dict[str, Any] = {
        "path": [path for (path, _), length in zip(batch, lengths, strict=True) for _ in range(length)],
        "time_ms": torch.cat([row[:length] for row, length in zip(encoded.times_ms, lengths, strict=True)]).numpy(),
        "vector": _vectors(torch.cat([row[:length] for row, length in zip(states, lengths, strict=True)]).numpy()),
    }
    return pa.table(columns)


def _write_errors(path: Path, errors: list[tuple[str, str]]) -> None:
    path.unlink(missing_ok=True)
    if errors:
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t").writerows([("path", "reason"), *errors])

"""What a packed corpus was decoded from, and the checksums of its audio: packed.json in its folder."""

import csv
import dataclasses
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maeast_upstream.data.packed import (
    AUDIO_NAME,
    MAX_RECORD_BYTES,
    RECORD_NAME,
    TABLE_NAME,
    is_packed,
    packed_clips,
    source_of,
)
from maeast_upstream.storage.delimited import from_cell
from maeast_upstream.storage.json_file import read_json
from pretrain.data.listing import DIGEST_LETTERS, Listing, list_corpus

logger = logging.getLogger(__name__)

ERRORS_NAME, WARNINGS_NAME = "errors.tsv", "warnings.tsv"
"""What was left out, and what was noticed about clips that were decoded."""
BLOCK_BYTES = 1 << 24
"""Bytes of audio to a checksum; small, so that damage is found nearly where it is."""
LOGGED_SECONDS = 1.0
"""A verification that takes longer is logged."""
MAX_THREADS = 8
"""Threads that compute checksums; each computes about 1 GB/s, and no disk reads more than these together."""


@dataclass(frozen=True)
class Record:
    """What packed.json holds."""

    corpus: str
    """Path of the corpus relative to the packed folder, so that both may be moved together."""
    listing: str
    """`Listing.digest` of the corpus when it was packed."""
    files: int
    """Files of the corpus."""
    left_out: int
    """Files and members of tars that could not be decoded; errors.tsv names them."""
    checksums: list[int]
    """CRC-32 of each block of the audio."""

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Record | None:
    """Read what packing wrote; None for a folder that version 0.1 packed; ValueError if it is something else."""
    path = folder / RECORD_NAME
    if not path.exists():
        return None
    try:
        return Record(**read_json(path, MAX_RECORD_BYTES))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not written by pretrain.pack ({error}); remove {folder} to pack again") from error


def refuse_other_corpus(corpus: Path, folder: Path, listing: Listing | None = None) -> None:
    """ValueError if ``folder`` was decoded from another corpus, or if the corpus is no longer what it was.

    A corpus that is no longer there is no error: its packed copy is all that is left.
    """
    source = source_of(folder)
    if source is not None and os.path.realpath(source) != os.path.realpath(corpus):
        raise ValueError(
            f"{folder}: decoded from {source}, not {corpus}; give another --data.packed, or remove {folder}"
        )
    if not corpus.exists():
        logger.warning("%s is not there to compare with: its packed copy %s is used as it is", corpus, folder)
        return
    if (change := what_changed(listing or list_corpus(corpus), folder)) is not None:
        raise ValueError(
            f"{folder}: {corpus} has changed since it was packed ({change}); remove {folder} to pack again, or give "
            "another --data.packed"
        )


def warn_if_changed(folder: Path) -> None:
    """Warn if the corpus of a packed folder, where it is still there, is no longer what it was."""
    source = source_of(folder)
    if source is not None and Path(source).exists():
        try:
            change = what_changed(list_corpus(Path(source)), folder)
        except ValueError as error:
            change = str(error)
        if change is not None:
            logger.warning("%s is older than %s, which has changed since (%s)", folder, source, change)


def what_changed(listing: Listing, folder: Path) -> str | None:
    """How a corpus differs from what a packed folder was decoded from, in a few words; None if it does not."""
    record = read_record(folder)
    if record is None:
        return _changed_since_0_1(listing, folder)
    if record.listing == listing.digest:
        return None
    if record.files != len(listing):
        return f"it had {record.files} files, now {len(listing)}"
    return "names, sizes or times of its files differ"


def _changed_since_0_1(listing: Listing, folder: Path) -> str | None:
    """The same for a folder without a record: by the number of names in its table, and the times of the files."""
    written = _time(folder / TABLE_NAME)
    newer = [path for path in [*listing.shards, *(path for path, _ in listing.files)] if _time(path) > written]
    if newer:
        return f"{newer[0]} is newer"
    names = (name for name, _, _ in packed_clips(folder))
    packed = len({name.partition(".tar/")[0] for name in names}) if listing.shards else sum(1 for _ in names)
    return None if packed == len(listing) else f"{packed} files of it were packed, now it has {len(listing)}"


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def left_out(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and reason of what was left out when a folder was packed; nothing if version 0.1 packed it."""
    if (folder / ERRORS_NAME).exists():
        with (folder / ERRORS_NAME).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                yield from_cell(row.get("clip") or ""), from_cell(row.get("error") or "")


def default_folder(listing: Listing, beside: Path) -> Path:
    """Where the packed copy of a corpus is kept for which no folder is given.

    It is kept in ``beside``/packed, named by the corpus and its digest, so that a corpus that has changed gets another
    copy. A current copy that version 0.1 put into the corpus is used, too.
    """
    corpus = listing.corpus
    within = corpus / "packed" if corpus.is_dir() else corpus.with_suffix(".packed")
    if is_packed(str(within)):
        if (change := what_changed(listing, within)) is None:
            return within
        logger.warning("%s is an older packed copy of %s and not used (%s); it may be removed", within, corpus, change)
    name = corpus.resolve().stem or "corpus"
    folder = beside / "packed" / f"{name}-{listing.digest}"
    for older in sorted((beside / "packed").glob(f"{name}-{'[0-9a-f]' * DIGEST_LETTERS}")):
        source = source_of(older)
        if older != folder and source is not None and os.path.realpath(source) == os.path.realpath(corpus):
            logger.warning("%s is an older packed copy of %s and not used; it may be removed", older, corpus)
    return folder


def checksums_of(path: Path) -> list[int]:
    """CRC-32 of each block of a file, by several threads."""
    size = path.stat().st_size
    with path.open("rb") as file, ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        blocks = range(0, size, BLOCK_BYTES)
        return list(pool.map(lambda first: zlib.crc32(os.pread(file.fileno(), BLOCK_BYTES, first)), blocks))


def verify(folder: Path, lengths: np.ndarray) -> str:
    """Compare all audio of a packed folder with its checksums; a folder that version 0.1 packed has none.

    Args:
        folder: The packed folder.
        lengths: (clips,) samples of its clips.

    Returns:
        A digest of the audio and the lengths, which tells one corpus from another.

    Raises:
        ValueError: The audio is not what was packed; the message says where.
    """
    begun, path, record = time.monotonic(), folder / AUDIO_NAME, read_record(folder)
    checksums = checksums_of(path)
    if record is None:
        logger.warning("%s was packed by an earlier version, without checksums: its audio is not verified", folder)
    elif checksums != record.checksums:
        pairs = zip(checksums, record.checksums, strict=False)
        wrong = next((n for n, (found, packed) in enumerate(pairs) if found != packed), 0) * BLOCK_BYTES
        raise ValueError(
            f"{path}: its {BLOCK_BYTES >> 20} MiB from byte {wrong} on are not what was packed (CRC-32), because of a "
            f"damaged disk or copy; remove {folder} to pack again, or copy it again"
        )
    if (seconds := time.monotonic() - begun) > LOGGED_SECONDS:
        logger.info("%s: %.3f GB, verified in %.1f s", path, path.stat().st_size / 1e9, seconds)
    return hashlib.sha256(json.dumps([checksums, lengths.tolist()]).encode()).hexdigest()[:DIGEST_LETTERS]

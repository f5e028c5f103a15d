"""Decodes a corpus once: every clip as 16 kHz int16 in one memory-mapped file, with a table of where each lies."""

import csv
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from maeast_upstream.audio import AUDIO_SUFFIXES, AudioError, read_audio

logger = logging.getLogger(__name__)

AUDIO_NAME, TABLE_NAME = "audio.i16", "clips.tsv"


@dataclass(frozen=True)
class Packed:
    """A decoded corpus."""

    audio: np.ndarray
    """All clips one after the other, int16, memory-mapped."""
    offsets: np.ndarray
    """(clips,) int64 first sample of each clip."""
    lengths: np.ndarray
    """(clips,) int64 samples of each clip."""
    kinds: np.ndarray
    """(clips,) what the corpus says each clip is (speech, music, ...), "" if it says nothing."""

    @property
    def hours(self) -> float:
        """Length of all clips together."""
        return float(self.lengths.sum()) / 16_000 / 3600


def open_packed(folder: Path) -> Packed:
    """A corpus that `pack` wrote."""
    with (folder / TABLE_NAME).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    lengths = np.array([int(row["samples"]) for row in rows], dtype=np.int64)
    return Packed(
        audio=np.memmap(folder / AUDIO_NAME, dtype=np.int16, mode="r"),
        offsets=np.concatenate([[0], lengths.cumsum()[:-1]]),
        lengths=lengths,
        kinds=np.array([row["kind"] for row in rows]),
    )


def pack(corpus: Path, out: Path, workers: int = 1) -> Packed:
    """Decode ``corpus`` into the folder ``out``, or open it where that was done before.

    Args:
        corpus: a folder of WebDataset shards (``*.tar`` with ``KEY.opus|flac|wav|...`` and, if at hand,
            ``KEY.json`` with a field ``kind``), or a folder of audio files.
        out: where to keep the result; it appears there whole or not at all.
        workers: processes that decode.

    Raises:
        ValueError: no readable audio in ``corpus``.
    """
    if (out / TABLE_NAME).exists():
        return open_packed(out)
    shards = sorted(corpus.glob("*.tar"))
    files = [] if shards else sorted(p for p in corpus.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not shards and not files:
        raise ValueError(f"{corpus} holds neither *.tar shards nor audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
    parts = [[path] for path in shards] or [files[i : i + 500] for i in range(0, len(files), 500)]
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (out / f"{AUDIO_NAME}.part").open("wb") as audio, ProcessPoolExecutor(workers) as pool:
        for clips in tqdm(pool.map(_decode_part, parts), total=len(parts), unit="part", desc="decoding"):
            for name, kind, samples in clips:
                audio.write(samples.tobytes())
                rows.append((name, kind, len(samples)))
    if not rows:
        raise ValueError(f"no file of {corpus} could be decoded")
    with (out / f"{TABLE_NAME}.part").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([("clip", "kind", "samples"), *rows])
    os.replace(out / f"{AUDIO_NAME}.part", out / AUDIO_NAME)
    os.replace(out / f"{TABLE_NAME}.part", out / TABLE_NAME)
    return open_packed(out)


def _decode_part(paths: list[Path]) -> list[tuple[str, str, np.ndarray]]:
    if paths[0].suffix == ".tar":
        return [clip for path in paths for clip in _read_shard(path)]
    return [clip for path in paths for clip in _read(str(path), "", path)]


def _read_shard(path: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    kinds: dict[str, str] = {}
    audio: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            handle = tar.extractfile(member)
            if handle is None:
                continue
            if suffix == "json":
                kinds[key] = str(json.loads(handle.read()).get("kind", ""))
            elif f".{suffix.lower()}" in AUDIO_SUFFIXES:
                audio[key] = (member.name, handle.read())
    for key, (name, data) in audio.items():
        yield from _read(f"{path.name}/{name}", kinds.get(key, ""), io.BytesIO(data))


def _read(name: str, kind: str, source: Path | io.BytesIO) -> Iterator[tuple[str, str, np.ndarray]]:
    try:
        samples = read_audio(source)
    except AudioError as error:
        logger.warning("left out: %s: %s", name, error)
        return
    yield name, kind, (samples.clip(-1.0, 1.0) * 32767.0).round().astype(np.int16)

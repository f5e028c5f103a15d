"""Decodes a corpus once into flat files that are fast to cut crops from."""

import contextlib
import csv
import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from maeast_upstream.audio.reading import AUDIO_SUFFIXES, AudioError, read_audio
from maeast_upstream.data.packed import AUDIO_NAME, TABLE_NAME, Packed, open_packed, to_int16
from maeast_upstream.progress import progress_bar
from pretrain.data.clips import read_manifest

logger = logging.getLogger(__name__)

FILES_AT_ONCE = 32


SOURCE_NAME = "source.txt"
"""What a packed folder was decoded from, seen from that folder: the two may move together."""


Clip = tuple[str, str, np.ndarray | str]
"""Name, kind, and the int16 samples, or why there are none."""


Part = list[tuple[Path, str]]
"""Shards, or files with their kinds: what one process decodes at once."""


def pack(corpus: Path, out: Path, workers: int = 1, failures: list[str] | None = None) -> Packed:
    """Decode ``corpus`` into the folder ``out``, or open it where that was done before.

    Args:
        corpus: a folder of WebDataset shards (``*.tar`` with ``KEY.opus|flac|wav|...`` and, if at hand,
            ``KEY.json`` with a field ``kind``), a folder of audio files, or a manifest (`read_manifest`).
        out: where to keep the result; it appears there whole or not at all.
        workers: processes that decode; 0 to decode in this one.
        failures: gets a line for each file that is left out.

    Returns:
        The clips in the order of their names, or of the manifest. What cannot be decoded is left out, and named in a
        warning.

    Raises:
        ValueError: no readable audio in ``corpus``, or what lies in ``out`` is not whole, or of another corpus.
        OSError: the disk is full, for one; no file stays half-written.
    """
    source, own = out / SOURCE_NAME, os.path.relpath(corpus.resolve(), out.resolve())
    if (out / TABLE_NAME).exists():
        before = source.read_text(errors="surrogateescape") if source.exists() else own
        if before != own:
            told = os.path.normpath(out / before)
            raise ValueError(f"{out}: decoded from {told}, not from {corpus}; give another --data.packed, or remove it")
        return open_packed(out)
    parts = _parts(corpus)
    out.mkdir(parents=True, exist_ok=True)
    failures = [] if failures is None else failures
    audio, table = (out / f"{name}.part" for name in (AUDIO_NAME, TABLE_NAME))
    try:
        rows = _decode(parts, audio, workers, failures)
        if not rows:
            raise ValueError(
                f"no file of {corpus} could be decoded; the first: {failures[0] if failures else 'no audio'}"
            )
        with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerows([("clip", "kind", "samples"), *rows])
        source.write_text(own, errors="surrogateescape")
    except Exception:
        for path in (audio, table, source):
            path.unlink(missing_ok=True)
        raise
    os.replace(audio, out / AUDIO_NAME)
    os.replace(table, out / TABLE_NAME)
    return open_packed(out)


def _decode(parts: list[Part], path: Path, workers: int, failures: list[str]) -> list[tuple[str, str, int]]:
    """Samples into ``path``; name, kind, samples of each clip."""
    rows: list[tuple[str, str, int]] = []
    with path.open("wb") as audio, _mapped(workers) as apply:
        for clips in progress_bar(
            apply(_decode_part, parts),
            total=len(parts),
            unit="part",
            desc="decoding",
        ):
            for name, kind, samples in clips:
                if isinstance(samples, str):
                    failures.append(samples)
                    logger.warning("left out: %s", samples)
                else:
                    audio.write(samples.tobytes())
                    rows.append((name, kind, len(samples)))
    return rows


def _parts(corpus: Path) -> list[Part]:
    """What one process decodes at once: a shard, or some files (few, because hours may lie in each)."""
    if corpus.suffix == ".tsv":
        root, rows = read_manifest(corpus)
        listed = [(root / name, kind) for name, _, kind in rows]
        if not listed:
            raise ValueError(f"{corpus}: no clip below its first line; expected path, tab, samples on each")
        return [listed[i : i + FILES_AT_ONCE] for i in range(0, len(listed), FILES_AT_ONCE)]
    if not corpus.is_dir():
        raise ValueError(f"corpus {corpus}: no such folder; give a folder of audio files or *.tar shards, or a .tsv")
    shards = sorted(corpus.glob("*.tar"))
    if shards:
        return [[(path, "")] for path in shards]
    files = sorted(p for p in corpus.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"{corpus} holds neither *.tar shards nor audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return [[(path, "") for path in files[i : i + FILES_AT_ONCE]] for i in range(0, len(files), FILES_AT_ONCE)]


@contextlib.contextmanager
def _mapped(workers: int) -> Iterator[Callable[..., Iterable[list[Clip]]]]:
    """`map` in this process, or in ``workers`` others."""
    if workers == 0:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        yield pool.map


def _decode_part(part: Part) -> list[Clip]:
    if part[0][0].suffix == ".tar":
        return [clip for path, _ in part for clip in _read_shard(path)]
    return [_read(str(path), kind, path) for path, kind in part]


def _read_shard(path: Path) -> Iterator[Clip]:
    """Clips in the shard's order; one that breaks off gives what came before."""
    kinds: dict[str, str] = {}
    audio: dict[str, tuple[str, bytes]] = {}
    broken = None
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                handle = tar.extractfile(member)
                if handle is None:
                    continue
                if suffix == "json":
                    kinds[key] = _kind(handle.read())
                elif f".{suffix.lower()}" in AUDIO_SUFFIXES:
                    audio[key] = (member.name, handle.read())
    except (tarfile.TarError, EOFError) as error:
        broken = f"{path.name}: not a whole tar file ({error})"
    for key, (name, data) in audio.items():
        yield _read(f"{path.name}/{name}", kinds.get(key, ""), io.BytesIO(data))
    if broken:
        yield path.name, "", broken


def _kind(text: bytes) -> str:
    """The field ``kind`` of a clip's JSON; "" where there is none, or no JSON."""
    try:
        described = json.loads(text)
    except ValueError:
        return ""
    return str(described.get("kind", "")) if isinstance(described, dict) else ""


def _read(name: str, kind: str, source: Path | io.BytesIO) -> Clip:
    try:
        samples = read_audio(source)
    except AudioError as error:
        return name, kind, f"{name}: {str(error).removeprefix(f'{name}: ')}"
    return name, kind, to_int16(samples)

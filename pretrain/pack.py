"""Decodes a corpus once, into the folder that maeast_upstream/packed.py describes."""

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
from tqdm import tqdm

from maeast_upstream.audio import AUDIO_SUFFIXES, AudioError, read_audio
from maeast_upstream.packed import AUDIO_NAME, TABLE_NAME, Packed, open_packed

logger = logging.getLogger(__name__)

FILES_AT_ONCE = 32

Clip = tuple[str, str, np.ndarray | str]
"""Name, kind, and the int16 samples, or why there are none."""


def pack(corpus: Path, out: Path, workers: int = 1) -> Packed:
    """Decode ``corpus`` into the folder ``out``, or open it where that was done before.

    Args:
        corpus: a folder of WebDataset shards (``*.tar`` with ``KEY.opus|flac|wav|...`` and, if at hand,
            ``KEY.json`` with a field ``kind``), or a folder of audio files.
        out: where to keep the result; it appears there whole or not at all.
        workers: processes that decode; 0 to decode in this one.

    Returns:
        The clips in the order of their names. What cannot be decoded is left out, and named in a warning.

    Raises:
        ValueError: no readable audio in ``corpus``, or what lies in ``out`` is not whole.
    """
    if (out / TABLE_NAME).exists():
        return open_packed(out)
    parts = _parts(corpus)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, int]] = []
    failures: list[str] = []
    with (out / f"{AUDIO_NAME}.part").open("wb") as audio, _mapped(workers) as apply:
        for clips in tqdm(apply(_decode_part, parts), total=len(parts), unit="part", desc="decoding"):
            for name, kind, samples in clips:
                if isinstance(samples, str):
                    failures.append(samples)
                else:
                    audio.write(samples.tobytes())
                    rows.append((name, kind, len(samples)))
    for failure in failures:
        logger.warning("left out: %s", failure)
    if not rows:
        raise ValueError(f"no file of {corpus} could be decoded; the first: {failures[0] if failures else 'no audio'}")
    with (out / f"{TABLE_NAME}.part").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([("clip", "kind", "samples"), *rows])
    os.replace(out / f"{AUDIO_NAME}.part", out / AUDIO_NAME)
    os.replace(out / f"{TABLE_NAME}.part", out / TABLE_NAME)
    return open_packed(out)


def _parts(corpus: Path) -> list[list[Path]]:
    """What one process decodes at once: a shard, or some files (few, because hours may lie in each)."""
    if not corpus.is_dir():
        raise ValueError(f"corpus {corpus}: no such folder; give a folder of audio files or *.tar shards")
    shards = sorted(corpus.glob("*.tar"))
    if shards:
        return [[path] for path in shards]
    files = sorted(p for p in corpus.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"{corpus} holds neither *.tar shards nor audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return [files[i : i + FILES_AT_ONCE] for i in range(0, len(files), FILES_AT_ONCE)]


@contextlib.contextmanager
def _mapped(workers: int) -> Iterator[Callable[..., Iterable[list[Clip]]]]:
    """`map` in this process, or in ``workers`` others."""
    if workers == 0:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        yield pool.map


def _decode_part(paths: list[Path]) -> list[Clip]:
    if paths[0].suffix == ".tar":
        return [clip for path in paths for clip in _read_shard(path)]
    return [_read(str(path), "", path) for path in paths]


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
    return name, kind, (samples.clip(-1.0, 1.0) * 32767.0).round().astype(np.int16)

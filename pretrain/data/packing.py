"""Decodes a corpus once into flat files that are fast to cut crops from; see `maeast_upstream.data.packed`."""

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from maeast_upstream.audio.files import AUDIO_SUFFIXES, looks_like_audio
from maeast_upstream.audio.reading import AudioError, read_audio
from maeast_upstream.data.manifest import read_fairseq
from maeast_upstream.data.packed import AUDIO_NAME, TABLE_NAME, Packed, open_packed, to_int16
from maeast_upstream.data.tars import Member, list_members
from maeast_upstream.progress import progress_bar
from maeast_upstream.storage.delimited import lines

logger = logging.getLogger(__name__)

FILES_PER_TASK = 32
"""Files that a process decodes at once; few, because each may hold hours."""
SOURCE_NAME = "source.txt"
"""Path of the corpus relative to the packed folder, so that both may be moved together."""

Clip = tuple[str, str, np.ndarray | str]
"""Name, kind, and the int16 samples or the reason why there are none."""
Task = list[tuple[Path, str]]
"""Files and their kinds, or one shard, which a process decodes at once."""


def pack(corpus: Path, out: Path, workers: int = 1, failures: list[str] | None = None) -> Packed:
    """Decode ``corpus`` into the folder ``out``, or open ``out`` if that was done before.

    Args:
        corpus: a folder of WebDataset shards (``*.tar`` with ``KEY.opus|flac|wav|...`` and optionally ``KEY.json``
            with a field ``kind``), a folder of audio files, or a manifest (`read_fairseq`).
        out: folder for the result, which appears there whole or not at all.
        workers: processes that decode; with 0 this process decodes.
        failures: a line for each file that is left out is added to this list.

    Returns:
        The clips in the order of their names, or of the manifest. Files that cannot be decoded are left out and named
        in a warning.

    Raises:
        ValueError: ``corpus`` has no readable audio; ``out`` is not whole, or was decoded from another corpus.
        OSError: for example, the disk is full; no file stays half-written.
    """
    if (out / TABLE_NAME).exists():
        _refuse_other_corpus(corpus, out)
        return open_packed(out)
    tasks = _tasks(corpus)
    out.mkdir(parents=True, exist_ok=True)
    failures = [] if failures is None else failures
    source, audio, table = (out / name for name in (SOURCE_NAME, f"{AUDIO_NAME}.part", f"{TABLE_NAME}.part"))
    try:
        rows = _decode(tasks, audio, workers, failures)
        if not rows:
            raise ValueError(
                f"no file of {corpus} could be decoded; the first: {failures[0] if failures else 'no audio'}"
            )
        with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(lines([("clip", "kind", "samples"), *rows], "\t"))
        source.write_text(_relative(corpus, out), errors="surrogateescape")
    except Exception:
        for path in (audio, table, source):
            path.unlink(missing_ok=True)
        raise
    os.replace(audio, out / AUDIO_NAME)
    os.replace(table, out / TABLE_NAME)
    return open_packed(out)


def _refuse_other_corpus(corpus: Path, out: Path) -> None:
    """ValueError if ``out`` was decoded from another corpus than ``corpus``."""
    source = out / SOURCE_NAME
    if source.exists() and (before := source.read_text(errors="surrogateescape")) != _relative(corpus, out):
        other = os.path.normpath(out / before)
        raise ValueError(f"{out}: decoded from {other}, not {corpus}; give another --data.packed, or remove it")


def _relative(corpus: Path, out: Path) -> str:
    return os.path.relpath(corpus.resolve(), out.resolve())


def _decode(tasks: list[Task], path: Path, workers: int, failures: list[str]) -> list[tuple[str, str, int]]:
    """Write the samples of all clips to ``path``; name, kind and samples of each clip."""
    rows: list[tuple[str, str, int]] = []
    with path.open("wb") as audio, _mapping(workers) as apply:
        for clips in progress_bar(apply(_decode_task, tasks), total=len(tasks), unit="part", desc="decoding"):
            for name, kind, samples in clips:
                if isinstance(samples, str):
                    failures.append(samples)
                    logger.warning("left out: %s", samples)
                else:
                    audio.write(samples.tobytes())
                    rows.append((name, kind, len(samples)))
    return rows


def _tasks(corpus: Path) -> list[Task]:
    """The shards of a corpus, or its files in groups."""
    if corpus.suffix == ".tsv":
        root, rows = read_fairseq(str(corpus))
        files = [(Path(root) / row.path, row.kind) for row in rows]
        if not files:
            raise ValueError(f"{corpus}: no clip below its first line; expected path, tab, samples on each")
    elif not corpus.is_dir():
        raise ValueError(f"corpus {corpus}: no such folder; give a folder of audio files or *.tar shards, or a .tsv")
    elif shards := sorted(corpus.glob("*.tar")):
        return [[(path, "")] for path in shards]
    else:
        paths = sorted(p for p in corpus.rglob("*") if looks_like_audio(str(p.relative_to(corpus))) and p.is_file())
        files = [(path, "") for path in paths]
    if not files:
        raise ValueError(f"{corpus} holds neither *.tar shards nor audio files ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return [files[i : i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]


@contextlib.contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterable[list[Clip]]]]:
    """`map` in this process, or in ``workers`` others."""
    if workers == 0:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        yield pool.map


def _decode_task(task: Task) -> list[Clip]:
    if task[0][0].suffix == ".tar":
        return [clip for path, _ in task for clip in _read_shard(path)]
    return [_read(str(path), kind, path) for path, kind in task]


def _read_shard(path: Path) -> Iterator[Clip]:
    """Decode the clips of a shard in its order; of a shard that is cut short, the clips before that point."""
    members: dict[str, Member] = {}
    descriptions: dict[str, Member] = {}
    broken = None
    try:
        for member in list_members(str(path), {*AUDIO_SUFFIXES, ".json"}):
            key, _, suffix = member.name.rpartition(".")
            (descriptions if suffix.lower() == "json" else members)[key] = member
    except ValueError as error:
        broken = f"{path.name}: {error}"
    if members:
        with path.open("rb") as file:
            for key, member in members.items():
                name = f"{path.name}/{member.name}"
                kind = _kind(_content(file, descriptions[key])) if key in descriptions else ""
                if member.error:
                    yield name, kind, f"{name}: {member.error}"
                else:
                    yield _read(name, kind, io.BytesIO(_content(file, member)))
    if broken:
        yield path.name, "", broken


def _content(file: io.BufferedReader, member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _kind(text: bytes) -> str:
    """The field ``kind`` of a clip's JSON; "" if there is none, or no JSON."""
    try:
        description = json.loads(text)
    except ValueError:
        return ""
    return str(description.get("kind", "")) if isinstance(description, dict) else ""


def _read(name: str, kind: str, source: Path | io.BytesIO) -> Clip:
    try:
        samples = read_audio(source)
    except AudioError as error:
        return name, kind, f"{name}: {str(error).removeprefix(f'{name}: ')}"
    return name, kind, to_int16(samples)

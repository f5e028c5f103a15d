"""Writes chosen clips as WebDataset shards, with a manifest and a summary."""

import csv
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from maeast_upstream.storage.atomic import replacing
from pretrain.corpora.corpus.clips import Clip, Finished

SHARD_BYTES = 60_000_000
END_BYTES = 20_480
"""What a tar may have at its end."""
BLOCK = 512
NAME = "corpus"
KEY_DIGITS = 20
MANIFEST, SUMMARY = "manifest.tsv", "summary.tsv"
COLUMNS = ("shard", "path", "seconds", "package", "version", "licence", "kind", "language", "source")

Row = tuple[str, ...]


def write_corpus(out: Path, clips: Iterable[Clip], finished: Mapping[str, Finished]) -> dict[str, tuple[float, int]]:
    """Write ``corpus-00000.tar``, ..., then ``manifest.tsv`` and ``summary.tsv``.

    What an earlier run wrote is replaced. While there is no manifest, the corpus is not whole.

    Args:
        out: a folder that exists.
        clips: in their order.
        finished: the package of each clip by its name.

    Returns:
        Hours and clips: ``all``, ``kind:speech``, ..., ``package:NAME``, ...
    """
    for name in (MANIFEST, SUMMARY):
        (out / name).unlink(missing_ok=True)
    for left in out.glob(f".{NAME}-*.part.tar"):  # of a run that was killed
        left.unlink()
    rows: list[Row] = []
    names: list[str] = []
    with ExitStack() as files:
        data = {name: files.enter_context(package.data.open("rb")) for name, package in finished.items()}
        for number, members in enumerate(_by_shard(clips, finished)):
            names.append(f"{NAME}-{number:05d}.tar")
            with replacing(out / names[-1]) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
                for clip, meta in members:
                    key = clip.key[:KEY_DIGITS]
                    data[clip.package].seek(clip.offset)
                    _add(tar, f"{key}.opus", data[clip.package].read(clip.size))
                    _add(
                        tar,
                        f"{key}.json",
                        json.dumps(meta, sort_keys=True, ensure_ascii=False).encode(errors="replace"),
                    )
                    rows.append((names[-1], f"{key}.opus", *(str(meta[column]) for column in COLUMNS[2:])))
    for path in out.glob(f"{NAME}-*.tar"):
        if path.name not in names:
            path.unlink()
    totals = _totals(rows)
    lines = [(what, f"{hours:.3f}", str(count)) for what, (hours, count) in totals.items()]
    _write_tsv(out / SUMMARY, [("what", "hours", "clips"), *lines])
    _write_tsv(out / MANIFEST, [COLUMNS, *rows])
    return totals


def _by_shard(
    clips: Iterable[Clip], finished: Mapping[str, Finished]
) -> Iterator[list[tuple[Clip, dict[str, str | float]]]]:
    """Clips with their descriptions, as many as a shard takes."""
    members: list[tuple[Clip, dict[str, str | float]]] = []
    left = SHARD_BYTES - END_BYTES
    for clip in clips:
        meta = _describe(clip, finished[clip.package])
        need = (
            2 * BLOCK + _blocks(clip.size) + _blocks(len(json.dumps(meta, ensure_ascii=False).encode(errors="replace")))
        )
        if members and need > left:
            yield members
            members, left = [], SHARD_BYTES - END_BYTES
        members.append((clip, meta))
        left -= need
    if members:
        yield members


def _describe(clip: Clip, of: Finished) -> dict[str, str | float]:
    return {
        "seconds": clip.seconds,
        "package": clip.package,
        "version": of.version,
        "licence": of.package.licence,
        "kind": clip.kind,
        "language": of.package.language,
        "source": clip.source,
    }


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _totals(rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        for what in ("all", f"kind:{row[6]}", f"package:{row[3]}"):
            seconds[what] += float(row[2])
            counts[what] += 1
    return {what: (seconds[what] / 3600, counts[what]) for what in sorted(seconds)}


def _write_tsv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)

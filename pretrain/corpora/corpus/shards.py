"""Writes chosen clips as WebDataset shards, with a manifest and a summary."""

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from maeast_upstream.storage.atomic import replacing
from maeast_upstream.storage.delimited import write_csv
from pretrain.corpora.corpus.clip_labels import LABEL_COLUMNS, labels_of
from pretrain.corpora.corpus.clips import ConvertedPackage, CorpusClip

SHARD_BYTES = 60_000_000
END_BYTES = 20_480
"""The most that a tar may have at its end."""
BLOCK = 512
NAME = "corpus"
KEY_DIGITS = 20
MANIFEST, SUMMARY = "manifest.tsv", "summary.tsv"
COLUMNS = ("shard", "path", "seconds", "package", "version", "licence", "kind", "language", "source")
OTHER_LABELS = tuple(column for column in LABEL_COLUMNS if column not in COLUMNS)
"""Columns of the manifest after these; its language is that of the clip, in the shards it is that of the package."""

Row = tuple[str, ...]


def write_corpus(
    out: Path, clips: Iterable[CorpusClip], packages: Mapping[str, ConvertedPackage]
) -> dict[str, tuple[float, int]]:
    """Write ``corpus-00000.tar``, ..., then ``summary.tsv`` and ``manifest.tsv``.

    The files of an earlier run are replaced. The corpus is complete when the manifest exists.

    Args:
        out: an existing folder.
        clips: the clips in the order of the corpus.
        packages: the packages of the clips, by name.

    Returns:
        Hours and number of clips of ``all``, ``kind:speech``, ..., ``package:NAME``, ...
    """
    for name in (MANIFEST, SUMMARY):
        (out / name).unlink(missing_ok=True)
    for leftover in out.glob(f".{NAME}-*.part.tar"):  # from a run that was killed
        leftover.unlink()
    rows: list[Row] = []
    names: list[str] = []
    with ExitStack() as files:
        data = {name: files.enter_context(package.data.open("rb")) for name, package in packages.items()}
        for number, members in enumerate(_by_shard(clips, packages)):
            names.append(f"{NAME}-{number:05d}.tar")
            with replacing(out / names[-1]) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
                for clip, meta in members:
                    key = clip.key[:KEY_DIGITS]
                    data[clip.package].seek(clip.offset)
                    _add(tar, f"{key}.opus", data[clip.package].read(clip.size))
                    _add(tar, f"{key}.json", _json_bytes(meta, sort_keys=True))
                    known = meta | labels_of(clip.package, clip.source, clip.kind, str(meta["language"]))
                    known["kind"] = clip.kind
                    rows.append(
                        (names[-1], f"{key}.opus", *(str(known[column]) for column in (*COLUMNS[2:], *OTHER_LABELS)))
                    )
    for path in out.glob(f"{NAME}-*.tar"):
        if path.name not in names:
            path.unlink()
    totals = _totals(rows)
    lines = [(what, f"{hours:.3f}", str(count)) for what, (hours, count) in totals.items()]
    write_csv(out / SUMMARY, [("what", "hours", "clips"), *lines], "\t")
    write_csv(out / MANIFEST, [(*COLUMNS, *OTHER_LABELS), *rows], "\t")
    return totals


def _by_shard(
    clips: Iterable[CorpusClip], packages: Mapping[str, ConvertedPackage]
) -> Iterator[list[tuple[CorpusClip, dict[str, str | float]]]]:
    """Yield the clips of each shard with their descriptions."""
    members: list[tuple[CorpusClip, dict[str, str | float]]] = []
    remaining = SHARD_BYTES - END_BYTES
    for clip in clips:
        meta = _describe(clip, packages[clip.package])
        needed = 2 * BLOCK + _blocks(clip.size) + _blocks(len(_json_bytes(meta)))
        if members and needed > remaining:
            yield members
            members, remaining = [], SHARD_BYTES - END_BYTES
        members.append((clip, meta))
        remaining -= needed
    if members:
        yield members


def _describe(clip: CorpusClip, converted: ConvertedPackage) -> dict[str, str | float]:
    return {
        "seconds": clip.seconds,
        "package": clip.package,
        "version": converted.version,
        "licence": converted.package.licence,
        "kind": clip.kind,
        "language": converted.package.language,
        "source": clip.source,
    }


def _json_bytes(meta: dict[str, str | float], sort_keys: bool = False) -> bytes:
    return json.dumps(meta, sort_keys=sort_keys, ensure_ascii=False).encode(errors="replace")


def _blocks(size: int) -> int:
    """The bytes that a file of ``size`` takes in a tar."""
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

"""``maeast dedup``: lists the duplicates of a collection."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import printable
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import NumPy
    from maeast_upstream.similarity.deduplication import Duplicate, Duplicates

MAX_SHOWN_GROUPS, MAX_SHOWN_COPIES, MAX_SHOWN_FILES = 10, 4, 3


def main(argv: Sequence[str]) -> int:
    """List groups of duplicates of a table of embeddings: files with equal bytes, and clips that sound the same.

    Nothing is deleted.
    """
    args = build_parser().parse_args(argv)
    from maeast_upstream.data.embedding_files import find_files
    from maeast_upstream.data.embeddings import EmbeddingTable
    from maeast_upstream.data.relative_names import located
    from maeast_upstream.similarity.deduplication import duplicates
    from maeast_upstream.storage.atomic import refuse_to_replace_inputs, refuse_unwritable

    table = EmbeddingTable(args.embeddings, args.layer)
    outputs = [path for path in (args.out, args.removable) if path is not None]
    for path in outputs:
        refuse_unwritable(path)
    refuse_to_replace_inputs(outputs, [args.embeddings, *find_files(args.embeddings)])
    if args.out is not None and args.removable is not None and args.out.absolute() == args.removable.absolute():
        raise UsageError(f"-o and --removable are the same file, {args.out}")
    if len(table.layers) > 1 and args.layer is None:
        print(f"layer {table.layer} of {', '.join(table.layers)}; --layer chooses another")
    found = duplicates(table, args.threshold, args.compare, args.relative_to)
    print("\n".join(map(printable, report(found, args.compare))))
    if args.out is not None:
        write_found(args.out, found)
        print(f"wrote {args.out}: {counted(len(found.found), 'clip')}")
    if args.removable is not None:
        folder = table.root if args.relative_to is None else args.relative_to
        count = write_removable(args.removable, [located(name, folder) for name in found.removable])
        print(f"wrote {args.removable}: {counted(count, 'file')}")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast dedup", description=main.__doc__)
    parser.add_argument(
        "embeddings", type=Path, help="table that maeast embed wrote: a parquet file, or a folder of them"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help="CSV of all groups: path, times, similarity to the clip to keep, kind, keep",
    )
    parser.add_argument(
        "--removable", type=Path, metavar="FILE", help="list of the files that hold nothing but copies, one per line"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="smallest cosine of near-duplicates, from -1 to 1; default: 0.99, or 0.9 if the vectors are whitened "
        "and not shortened",
    )
    parser.add_argument(
        "--compare",
        choices=("both", "bytes", "vectors"),
        default="both",
        help="bytes of the files, vectors of the table, or both (default); vectors needs no files",
    )
    parser.add_argument(
        "--relative-to",
        metavar="FOLDER",
        help="where relative paths of the table start; default: the folder that embed was given so, or here",
    )
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    return parser


def report(found: "Duplicates", compare: str) -> Iterator[str]:
    """Yield lines for people: counts, what was not compared, the first groups, and pairs around the threshold."""
    copies = [clip for clip in found.found if not clip.keep]
    exact, groups = sum(clip.kind == "exact" for clip in copies), len(found.found) - len(copies)
    yield f"{counted(found.rows, 'clip')}: {counted(groups, 'group')} of duplicates, {of_copies(len(copies), exact)}"
    if missing := found.not_found:
        names = ", ".join(missing[:MAX_SHOWN_FILES]) + (", ..." if len(missing) > MAX_SHOWN_FILES else "")
        yield (
            f"bytes not compared of {counted(len(missing), 'file')} not found or not readable ({names}); "
            "--relative-to names the folder where relative paths start"
        )
    if found.zero_vectors:
        yield f"not compared: {counted(found.zero_vectors, 'clip')} whose vector is zero"
    if found.repeated:
        yield f"left out: {counted(found.repeated, 'clip')} that the table lists a second time"
    yield from group_lines(found.found)
    if compare != "bytes":
        for pairs, where in ((found.above, "above {}, counted as"), (found.below, "below {}, not counted as")):
            if pairs:
                yield f"pairs just {where.format(f'{found.threshold:g}')} duplicates; --threshold sets another limit:"
            for pair in pairs:
                yield f"  {pair.similarity:.5f}  {pair.first}  {pair.second}"


def of_copies(copies: int, exact: int) -> str:
    """Return the number of copies, and of which kind they are."""
    number = f"{copies} {'copy' if copies == 1 else 'copies'}"
    return f"{number} ({exact} exact, {copies - exact} near)" if copies else number


def group_lines(found: Sequence["Duplicate"]) -> Iterator[str]:
    """Yield the first groups, each with its first copies."""
    groups: dict[int, list[Duplicate]] = {}
    for clip in found:
        if clip.group <= MAX_SHOWN_GROUPS:
            groups.setdefault(clip.group, []).append(clip)
    for number, clips in groups.items():
        yield f"group {number}:"
        for clip in clips[: MAX_SHOWN_COPIES + 1]:
            times = f"  {clip.start_ms / 1000:.2f}-{end_of(clip)} s" if clip.start_ms else ""
            kind = "keep" if clip.keep else clip.kind
            similarity = f"{clip.similarity:.4f}" if kind == "near" else ""
            yield f"  {kind:<5}  {similarity:<6}  {clip.path}{times}"
        if len(clips) > MAX_SHOWN_COPIES + 1:
            yield f"  and {len(clips) - MAX_SHOWN_COPIES - 1} more"
    if found and found[-1].group > MAX_SHOWN_GROUPS:
        yield f"and {counted(found[-1].group - MAX_SHOWN_GROUPS, 'group')} more; -o FILE.csv lists all"


def end_of(clip: "Duplicate") -> str:
    """Return the end of a clip in seconds, or the word for the end of its file."""
    return "end" if math.isnan(clip.end_ms) else f"{clip.end_ms / 1000:.2f}"


def write_found(path: Path, found: "Duplicates") -> None:
    """Write the clips of all groups as CSV."""
    from maeast_upstream.similarity.deduplication import Duplicate
    from maeast_upstream.storage.delimited import write_csv

    def cells(clip: Duplicate) -> list[object]:
        values = {field.name: getattr(clip, field.name) for field in fields(Duplicate)}
        end = "" if math.isnan(clip.end_ms) else clip.end_ms
        similarity = f"{clip.similarity:.6f}"
        return list((values | {"end_ms": end, "similarity": similarity, "keep": "yes" if clip.keep else "no"}).values())

    write_csv(path, [[field.name for field in fields(Duplicate)], *map(cells, found.found)])


def write_removable(path: Path, names: Sequence[str]) -> int:
    """Write names of files as they are on the disk, one per line, and return their number.

    A name with a line break would be read as two names, and is left out.
    """
    from maeast_upstream.display import from_name
    from maeast_upstream.storage.atomic import replacing

    files = [os.fsencode(from_name(name)) for name in names]
    lines = [file + b"\n" for file in files if b"\n" not in file and b"\r" not in file]
    with replacing(path) as part:
        part.write_bytes(b"".join(lines))
    return len(lines)

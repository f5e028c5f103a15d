"""``python -m pretrain.corpora.labels CORPUS/manifest.tsv -o LABELS.tsv``: the labels of existing corpora."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus, run
from maeast_upstream.data.tables import read_header, row_values
from maeast_upstream.storage.delimited import from_cell, write_csv
from maeast_upstream.storage.text import lines_of, open_lines
from pretrain.corpora.corpus.clip_labels import LABEL_COLUMNS, labels_of, sets_of

PROG = "python -m pretrain.corpora.labels"
NEEDED = ("shard", "path", "package", "kind", "language", "source")
"""Columns of a manifest that `pretrain.corpora.debian_audio` or ``synthesized`` wrote."""
MAX_SHOWN = 8


def main(argv: Sequence[str]) -> int:
    """Write what the clips of a corpus are, as far as packages and names of files tell, for ``--labels``.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: The command line or the manifest is wrong, or the output exists already.
    """
    args = _parse(argv)
    if args.out.exists() and not args.force:
        raise ValueError(f"{args.out} exists already; give --force to replace it, or another name")
    for manifest in args.manifests:
        if not manifest.is_file():
            raise ValueError(f"{manifest}: no such file; expected the manifest.tsv of a corpus")
        if args.out.exists() and args.out.samefile(manifest):
            raise ValueError(f"{args.out}: the manifest itself, which labels do not replace; give another name")
    counts: dict[str, Counter[str]] = {column: Counter() for column in LABEL_COLUMNS}
    rows: list[tuple[str, ...]] = []
    masked = 0
    for row in chain.from_iterable(_read(str(manifest)) for manifest in args.manifests):
        labels = labels_of(row["package"], row["source"], row["kind"], row["language"])
        rows.append((f"{row['shard']}/{row['path']}", *labels.values()))
        masked += bool(sets_of(row["package"]))
        for column, label in labels.items():
            counts[column][label] += 1
    if not rows:
        raise ValueError(f"{args.manifests[0]}: no clips below its header")
    write_csv(args.out, [("clip", *LABEL_COLUMNS), *rows], "\t")
    for column, found in counts.items():
        shown = ", ".join(f"{label} {count}" for label, count in found.most_common(MAX_SHOWN + 1) if label)
        print(f"{column}: {len(rows) - found['']} of {len(rows)} clips, {len(set(found) - {''})} classes: {shown}")
    print(f"masked: {masked} clips of packages that a labelled set is made of have no {', '.join(LABEL_COLUMNS[2:])}")
    print(args.out)
    return ExitStatus.DONE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog=PROG, description=main.__doc__.splitlines()[0] if main.__doc__ else None)
    parser.add_argument(
        "manifests",
        type=Path,
        nargs="+",
        metavar="MANIFEST",
        help="the manifest.tsv of pretrain.corpora.debian_audio, of pretrain.corpora.synthesized, or both",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="LABELS.tsv", help="the table to write")
    parser.add_argument("--force", action="store_true", help="replace LABELS.tsv if it exists")
    return parser.parse_args(list(argv))


def _read(manifest: str) -> Iterator[dict[str, str]]:
    """Yield what labels depend on of each row of a manifest."""
    with open_lines(manifest) as file:
        lines = lines_of(file, manifest)
        header = read_header(lines, manifest, "package")
        if missing := [column for column in NEEDED if not header.has(column)]:
            raise ValueError(
                f"{manifest}: no column {missing[0]}; expected the manifest.tsv of pretrain.corpora.debian_audio, got "
                f"{header}"
            )
        columns = {column: header.index(column) for column in NEEDED}
        for _, values in row_values(lines, header, manifest, first=1):
            yield {column: from_cell(values[index]) for column, index in columns.items()}


if __name__ == "__main__":
    raise SystemExit(run(main))

"""``maeast index``: makes an approximate index of a table of embeddings, for searches in millions of rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser
from maeast_upstream.cli import ExitStatus
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import torch
    from maeast_upstream.data.embeddings import EmbeddingTable

SAMPLE, NEIGHBOURS = 200, 10
"""Rows whose neighbours are searched for with the index and without, and how many neighbours."""


def main(argv: Sequence[str]) -> int:
    """Make an index of a table of embeddings, with which maeast search need not read the whole table."""
    args = build_parser().parse_args(argv)
    from maeast_upstream.data.embeddings import EmbeddingTable
    from maeast_upstream.progress import progress_bar
    from maeast_upstream.similarity.index import build_index, usearch_index
    from maeast_upstream.storage.atomic import refuse_to_overwrite, refuse_to_replace_inputs, refuse_unwritable

    usearch_index()
    refuse_unwritable(args.out)
    refuse_to_replace_inputs([args.out], [args.table])
    refuse_to_overwrite(args.out, args.force)
    table = EmbeddingTable(args.table, args.layer)
    with progress_bar(total=table.rows, unit="row") as bar:
        build_index(table, args.out, bar.update)
    print(f"{counted(table.rows, 'row')} of {table.dimensions} dimensions: {args.out}")
    print(recall(table, args.out))
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast index", description=main.__doc__)
    parser.add_argument("table", type=Path, help="table that maeast embed wrote: a parquet file, or a folder of them")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the index, such as OUT.usearch")
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return parser


def recall(table: "EmbeddingTable", index: Path) -> str:
    """Return a line that says how many of the nearest rows are found with the index, for a sample of rows."""
    import numpy as np

    from maeast_upstream.similarity.searching import nearest_rows

    rows = np.random.default_rng(0).permutation(table.rows)[:SAMPLE]
    vectors = table.take(sorted(rows.tolist())).vectors
    vectors = vectors[vectors.any(axis=1)]
    if not len(vectors):
        return "all rows of the sample are zero, so that none has neighbours"
    count = min(NEIGHBOURS + 1, table.rows)
    exact, found = (nearest_rows(table, vectors, count, where)[0] for where in (None, index))
    shares = [len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(exact, found, strict=True)]
    sample = f"for {counted(len(vectors), 'row')} of the table"
    return f"{np.mean(shares):.1%} of the {count} nearest rows of exact search are found, {sample}"

"""``maeast cluster``: adds the clusters of its clips to a table of embeddings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maeast_upstream.arguments import Parser, UsageError, parse_seed
from maeast_upstream.cli import ExitStatus
from maeast_upstream.display import printable
from maeast_upstream.messages import counted

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import NumPy
    from maeast_upstream.data.embeddings import EmbeddingTable
    from maeast_upstream.similarity.clustering import Clusters, Method

MAX_SHOWN_CLUSTERS = 20
SUFFIXES = (".parquet", ".csv")


def main(argv: Sequence[str]) -> int:
    """Find clusters of clips in a table of embeddings, and write a copy of it with the cluster of each."""
    args = build_parser().parse_args(argv)
    method: Method = args.method or ("hdbscan" if args.clusters is None else "kmeans")
    if method == "kmeans" and args.clusters is None:
        raise UsageError("--method kmeans needs --clusters K")
    if method == "hdbscan" and args.clusters is not None:
        raise UsageError("--clusters goes with --method kmeans; HDBSCAN finds the number of clusters itself")
    if method == "kmeans" and args.min_size is not None:
        raise UsageError("--min-size goes with --method hdbscan")
    if args.out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"-o must end in {' or '.join(SUFFIXES)}, got {args.out}")
    from maeast_upstream.data.embedding_files import find_files
    from maeast_upstream.data.embeddings import EmbeddingTable
    from maeast_upstream.similarity.clustered_table import write_clustered
    from maeast_upstream.similarity.clustering import MIN_SIZE, cluster
    from maeast_upstream.storage.atomic import refuse_to_replace_inputs, refuse_unwritable

    refuse_unwritable(args.out)
    table = EmbeddingTable(args.embeddings, args.layer)
    refuse_to_replace_inputs([args.out], [args.embeddings, *find_files(args.embeddings)])
    if len(table.layers) > 1 and args.layer is None:
        print(f"layer {table.layer} of {', '.join(table.layers)}; --layer chooses another")
    min_size = MIN_SIZE if args.min_size is None else args.min_size
    clusters = cluster(table, method, args.clusters, min_size, args.seed)
    write_clustered(args.out, table, clusters)
    print("\n".join(map(printable, report(table, clusters))))
    print(f"wrote {args.out}: {counted(table.rows, 'row')} with the columns cluster and representative")
    return ExitStatus.DONE


def build_parser() -> Parser:
    """Build the parser of the command's options."""
    parser = Parser(prog="maeast cluster", description=main.__doc__)
    parser.add_argument(
        "embeddings", type=Path, help="table that maeast embed wrote: a parquet file, or a folder of them"
    )
    parser.add_argument(
        "-o", "--out", required=True, type=Path, help="OUT.parquet, with all columns; or OUT.csv, without vectors"
    )
    parser.add_argument(
        "--method",
        choices=("hdbscan", "kmeans"),
        help="default: hdbscan, which finds the number of clusters and leaves rows in none; with --clusters kmeans",
    )
    parser.add_argument("--clusters", type=int, metavar="K", help="number of clusters of k-means")
    parser.add_argument("--min-size", type=int, metavar="ROWS", help="smallest cluster of HDBSCAN; default 5")
    parser.add_argument("--layer", help="which layer of a table with several; default: its last")
    parser.add_argument("--seed", type=parse_seed, default=0, help="seed of samples and of k-means; default 0")
    return parser


def report(table: "EmbeddingTable", clusters: "Clusters") -> Iterator[str]:
    """Yield lines for people: the largest clusters, each with its clip nearest to the mean."""
    counts = clusters.counts
    noise = f", {counted(clusters.noise, 'row')} in none (cluster -1)" if clusters.noise else ""
    yield f"{counted(table.rows, 'row')}: {counted(len(counts), 'cluster')}{noise}"
    if clusters.sampled < table.rows:
        yield f"found in a sample of {clusters.sampled} rows; the others are in the cluster that they are nearest to"
    shown = [int(row) for row in clusters.representative.nonzero()[0] if clusters.cluster[row] < MAX_SHOWN_CLUSTERS]
    clips = table.take(shown)
    lines = {}
    for row, path, start_ms in zip(shown, clips.paths, clips.start_ms.tolist(), strict=True):
        start = f"  from {start_ms / 1000:.2f} s" if start_ms else ""
        number = int(clusters.cluster[row])
        lines[number] = f"  cluster {number:>2}  {counts[number]:>7} rows  {path}{start}"
    yield from (lines[number] for number in sorted(lines))
    if len(counts) > len(lines):
        yield f"  and {counted(len(counts) - len(lines), 'cluster')} more"
